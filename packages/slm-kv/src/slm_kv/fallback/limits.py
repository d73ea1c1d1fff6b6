"""How many tokens a request can have without pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from slm_kv.engine.context_limits import OnFull
from slm_kv.errors import KVError

# The names under which configs of transformers keep the number of positions; attribute_map translates many others.
POSITION_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length", "n_ctx")


@dataclass(frozen=True)
class GenerationLimits:
    """The limits of a request.

    Attributes:
        max_tokens: The largest number of tokens that is allowed.
        positions: Positions that the model knows; ``max_tokens`` for a model whose config has no limit.
        on_full: What happens at the limit, see TransformersEngine.
        original_positions: Positions of the model before its rotary embeddings were scaled, if the config names them.
            The scaling may depend on whether a text is longer (longrope), and then a cache is of no use across it.
    """

    max_tokens: int
    positions: int
    on_full: OnFull
    original_positions: int | None = None

    @classmethod
    def from_config(cls, config: Any, max_tokens: int, on_full: OnFull) -> GenerationLimits:
        """Combine ``max_tokens`` with the model's positions.

        Raises:
            KVError: ``on_full`` is ``window``, or unknown.
        """
        if on_full == "window":
            raise KVError("on_full='window' needs pages, and transformers' generation has none; use stop, or refuse")
        if on_full not in get_args(OnFull):
            raise KVError(f"on_full={on_full!r} is not one of {', '.join(get_args(OnFull))}")
        text_config = config.get_text_config()
        known = (getattr(text_config, name, None) for name in POSITION_NAMES)
        positions = next((value for value in known if isinstance(value, int) and value > 0), max_tokens)
        return cls(max_tokens, positions, on_full, _original_positions(text_config))

    @property
    def tokens(self) -> int:
        """The largest number of tokens in a prompt and its answer."""
        return min(self.max_tokens, self.positions)

    def check(self, prompt_tokens: int, new_tokens: int) -> None:
        """Check the size of a request.

        Raises:
            KVError: the request can never be answered.
        """
        if prompt_tokens == 0:
            raise KVError("the prompt is empty: give at least one token")
        if prompt_tokens > self.tokens:
            raise KVError(f"the prompt has {prompt_tokens} tokens and {self._limit}; shorten it")
        needed = prompt_tokens + new_tokens - 1  # the last token is never read
        if self.on_full == "refuse" and needed > self.tokens:
            raise KVError(
                f"a prompt of {prompt_tokens} tokens and max_new_tokens={new_tokens} need {needed} tokens of context "
                f"and {self._limit}; ask for fewer new tokens"
            )

    @property
    def _limit(self) -> str:
        if self.positions < self.max_tokens:
            return f"the model has {self.positions} positions"
        return f"a request can have {self.max_tokens}"


def _original_positions(config: Any) -> int | None:
    """``original_max_position_embeddings``, from the config, its rotary embeddings, or those of one kind of layer."""
    rope_parameters = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in rope_parameters.values() if isinstance(value, dict)]
    for settings in (vars(config), rope_parameters, *nested):
        value = settings.get("original_max_position_embeddings")
        if isinstance(value, int):
            return value
    return None
