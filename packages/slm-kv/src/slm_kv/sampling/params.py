"""The sampling settings of a request. Imports no torch: command lines read the defaults before they load a model."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

from slm_kv.constraints.grammar import Grammar
from slm_kv.errors import KVError

MAX_LOGPROBS = 20
LARGEST_FLOAT = sys.float_info.max


class _Range(NamedTuple):
    """A range of numbers, ``low`` to ``high``; ``description`` describes it in error messages."""

    low: float
    high: float
    description: str
    whole: bool = False
    excludes_low: bool = False

    def contains(self, value: Any) -> bool:
        types = int if self.whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, types):
            return False
        return self.low <= value <= self.high and not (self.excludes_low and value == self.low)


_LOGPROBS = _Range(0, MAX_LOGPROBS, f"a whole number from 0 to {MAX_LOGPROBS}, or None for no logprobs", whole=True)
_BIAS = _Range(-100, 100, "")
_PENALTY = _Range(-2, 2, "a number from -2 to 2; 0 is no penalty")
_RANGES = {
    "max_new_tokens": _Range(1, LARGEST_FLOAT, "a whole number of at least 1", whole=True),
    "min_new_tokens": _Range(0, LARGEST_FLOAT, "a whole number of at least 0", whole=True),
    "temperature": _Range(0, LARGEST_FLOAT, "a finite number of at least 0; 0 always takes the likeliest token"),
    "top_k": _Range(0, LARGEST_FLOAT, "a whole number of at least 0; 0 keeps all tokens", whole=True),
    "top_p": _Range(0, 1, "a number above 0 and at most 1; 1 keeps all tokens", excludes_low=True),
    "min_p": _Range(0, 1, "a number from 0 to 1; 0 keeps all tokens"),
    "repetition_penalty": _Range(0, LARGEST_FLOAT, "a finite number above 0; 1 is no penalty", excludes_low=True),
    "presence_penalty": _PENALTY,
    "frequency_penalty": _PENALTY,
    "seed": _Range(-math.inf, math.inf, "a whole number, or None for a random seed", whole=True),
    "logprobs": _LOGPROBS,
    "prompt_logprobs": _LOGPROBS,
}
_MAY_BE_NONE = ("seed", "logprobs", "prompt_logprobs")


@dataclass(frozen=True)
class SamplingParams:
    """How to continue a text.

    Args:
        max_new_tokens: The number of tokens after which generation ends.
        min_new_tokens: Until there are this many, the end of text and ``stop_token_ids`` are never sampled, and
            ``stop`` strings are ignored.
        temperature: 0 always takes the likeliest token.
        top_k: Sample from the k likeliest tokens; 0 keeps all.
        top_p: Sample from the smallest set of likeliest tokens with at least this probability in total; 1 keeps all.
        min_p: Drop tokens less likely than this share of the likeliest one's probability; 0 keeps all.
        repetition_penalty: Hugging Face's penalty, over prompt and completion; 1 is none.
        presence_penalty: OpenAI's penalty, once for each token that occurs in the completion; 0 is none.
        frequency_penalty: OpenAI's penalty, for each occurrence in the completion; 0 is none.
        seed: None means a random one.
        stop: A string or several; the completion ends before the first that occurs.
        stop_token_ids: Token ids that end the completion.
        ignore_eos: Continue past the end-of-text token.
        grammar: The language that the answer must be in. The text ends where the grammar does, and the end of text is
            sampled only where it may end. Stop strings and ``max_new_tokens`` may still cut it off.
        logit_bias: OpenAI's: pairs of a token id and a number from -100 to 100 that is added to its logit; -100 bans
            the token, 100 bans all others.
        visible_special_ids: Special tokens that the text shows; it leaves out the others.
        logprobs: The number of alternatives to report beside each sampled token; None reports no log-probabilities.
        prompt_logprobs: The same for the tokens of the prompt.

    Raises:
        KVError: a value is out of range.
    """

    max_new_tokens: int = 128
    min_new_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    grammar: Grammar | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    visible_special_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None

    def __post_init__(self) -> None:
        for name, allowed in _RANGES.items():
            value = getattr(self, name)
            if not (value is None and name in _MAY_BE_NONE) and not allowed.contains(value):
                raise _out_of_range(name, value, allowed.description)
        if not isinstance(self.ignore_eos, bool):
            raise _out_of_range("ignore_eos", self.ignore_eos, "True or False")
        stop = _as_tuple("stop", self.stop, str, "a non-empty string, or a list of them")
        object.__setattr__(self, "stop", stop)
        for name in ("stop_token_ids", "visible_special_ids"):
            object.__setattr__(self, name, _as_tuple(name, getattr(self, name), int, "a list of token ids"))
        if self.grammar is not None and not isinstance(self.grammar, Grammar):
            raise _out_of_range("grammar", self.grammar, "a Grammar, or None for any text")
        object.__setattr__(self, "logit_bias", _bias_pairs(self.logit_bias))

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0

    @property
    def penalised(self) -> bool:
        """Whether a token's score depends on the tokens before it."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0


def _as_tuple(name: str, value: Any, item_type: type, description: str) -> tuple[Any, ...]:
    items = (value,) if item_type is str and isinstance(value, str) else value
    valid = isinstance(items, list | tuple) and all(
        isinstance(item, item_type) and not isinstance(item, bool) and item != "" for item in items
    )
    if not valid:
        raise _out_of_range(name, value, description)
    return tuple(items)


def _bias_pairs(value: Any) -> tuple[tuple[int, float], ...]:
    for pair in value if isinstance(value, list | tuple) else [value]:
        token, bias = pair if isinstance(pair, list | tuple) and len(pair) == 2 else (None, None)
        if isinstance(token, bool) or not isinstance(token, int) or not _BIAS.contains(bias):
            raise _out_of_range("logit_bias", pair, "a list of pairs of a token id and a number from -100 to 100")
    return tuple(dict(value).items())  # the last of several numbers for one token


def _out_of_range(name: str, value: Any, description: str) -> KVError:
    return KVError(f"{name}={value!r} is out of range: give {description}")
