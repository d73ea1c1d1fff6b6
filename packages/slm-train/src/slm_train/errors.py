"""Errors that a user can cause. Each message is one sentence: what was wrong, with the value, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

_LONGEST_SHOWN = 80  # characters of a value in a message


class TrainError(ValueError):
    """A run that cannot be done as requested. Base class of all errors of this package."""

    exit_code = 2  # of the command line


class UsageError(TrainError):
    """A command line that cannot be read: an unknown flag, a broken file of flags, contradicting flags."""


class CheckpointError(TrainError):
    """A checkpoint that is damaged or cannot be written."""


class DivergenceError(TrainError):
    """A run that stopped because its loss, its gradient or its weights became NaN or infinite.

    Args:
        step: The optimizer step after which that was found; 0 before training.
        what: What is not finite, as a clause.
        rate: The learning rate of that step, if it is known.
    """

    exit_code = 1

    def __init__(self, step: int, what: str, rate: float | None = None):
        super().__init__(step, what, rate)
        self.step, self.what, self.rate = step, what, rate
        self.remedy = ""  # a sentence, once it is known what the run has saved

    def __str__(self) -> str:
        """Return one or two sentences."""
        rate = "" if self.rate is None else f", with the learning rate {self.rate:.3g}"
        return f"{self.what} at step {self.step:,}{rate}{self.remedy}"


def did_you_mean(value: str, names: Sequence[str]) -> str:
    """Return ``"did you mean NAME? "`` for the name closest to ``value``, or an empty string."""
    close = get_close_matches(value, names, n=1, cutoff=0.8)
    close = close or [name for name in names if value and name.startswith(value)] or get_close_matches(value, names)
    return f"did you mean {close[0]}? " if close else ""


def shown(value: str, longest: int = _LONGEST_SHOWN) -> str:
    """Return a value of a flag for an error message: in quotes if it is empty or not a plain word, and shortened."""
    short = value if len(value) <= longest else f"{value[:longest]}..."
    is_plain = short.isprintable() and short and not set(short) & set(" \"'")
    return short if is_plain else repr(short)
