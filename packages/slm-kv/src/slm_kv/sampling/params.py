"""What a request asks of sampling. No torch here: the command line reads its defaults."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

from slm_kv.errors import KVError

MOST_LOGPROBS = 20
LARGEST = sys.float_info.max


class _Range(NamedTuple):
    """Numbers from ``low`` (itself one of them unless ``above``) up to ``high``; ``wanted`` says so to the user."""

    low: float
    high: float
    wanted: str
    whole: bool = False
    above: bool = False

    def allows(self, given: Any) -> bool:
        kinds = int if self.whole else (int, float)
        if isinstance(given, bool) or not isinstance(given, kinds):
            return False
        return self.low <= given <= self.high and not (self.above and given == self.low)


_LOGPROBS = _Range(0, MOST_LOGPROBS, f"a whole number from 0 to {MOST_LOGPROBS}, or None for no logprobs", whole=True)
_PENALTY = _Range(-2, 2, "a number from -2 to 2; 0 is no penalty")
_RANGES = {
    "max_new_tokens": _Range(1, LARGEST, "a whole number of at least 1", whole=True),
    "min_new_tokens": _Range(0, LARGEST, "a whole number of at least 0", whole=True),
    "temperature": _Range(0, LARGEST, "a finite number of at least 0; 0 takes the likeliest token each time"),
    "top_k": _Range(0, LARGEST, "a whole number of at least 0; 0 keeps all tokens", whole=True),
    "top_p": _Range(0, 1, "a number above 0 and at most 1; 1 keeps all tokens", above=True),
    "min_p": _Range(0, 1, "a number from 0 to 1; 0 keeps all tokens"),
    "repetition_penalty": _Range(0, LARGEST, "a finite number above 0; 1 is no penalty", above=True),
    "presence_penalty": _PENALTY,
    "frequency_penalty": _PENALTY,
    "seed": _Range(-math.inf, math.inf, "a whole number, or None for a new one each time", whole=True),
    "logprobs": _LOGPROBS,
    "prompt_logprobs": _LOGPROBS,
}
_MAY_BE_NONE = ("seed", "logprobs", "prompt_logprobs")


@dataclass(frozen=True)
class SamplingParams:
    """How a text is continued. ``temperature`` 0 takes the likeliest token each time.

    ``top_k`` 0, ``top_p`` 1 and ``min_p`` 0 leave nothing out. ``repetition_penalty`` is Hugging Face's, over prompt
    and completion; ``presence_penalty`` and ``frequency_penalty`` are OpenAI's, over the completion. ``seed`` None
    takes a new one. ``stop`` is a text or several; the completion ends before the first that comes up. ``logprobs``:
    how many alternatives beside each chosen token, None for no log-probabilities at all; ``prompt_logprobs`` the same
    for the prompt. Before ``min_new_tokens`` neither the end of the text nor a token of ``stop_token_ids`` is chosen,
    and no ``stop`` is looked for.

    Raises KVError for a value out of range.
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
    logprobs: int | None = None
    prompt_logprobs: int | None = None

    def __post_init__(self) -> None:
        for name, numbers in _RANGES.items():
            given = getattr(self, name)
            if not (given is None and name in _MAY_BE_NONE) and not numbers.allows(given):
                raise _refused(name, given, numbers.wanted)
        if not isinstance(self.ignore_eos, bool):
            raise _refused("ignore_eos", self.ignore_eos, "True or False")
        stop = _listed("stop", self.stop, str, "a text that is not empty, or a list of such")
        object.__setattr__(self, "stop", stop)
        stop_ids = _listed("stop_token_ids", self.stop_token_ids, int, "a list of token ids")
        object.__setattr__(self, "stop_token_ids", stop_ids)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken each time."""
        return self.temperature == 0

    @property
    def penalised(self) -> bool:
        """Whether the score of a token depends on those before it."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0


def _listed(name: str, given: Any, kind: type, wanted: str) -> tuple[Any, ...]:
    items = (given,) if kind is str and isinstance(given, str) else given
    fine = isinstance(items, list | tuple) and all(
        isinstance(item, kind) and not isinstance(item, bool) and item != "" for item in items
    )
    if not fine:
        raise _refused(name, given, wanted)
    return tuple(items)


def _refused(name: str, given: Any, wanted: str) -> KVError:
    return KVError(f"{name}={given!r} is out of range: give {wanted}")
