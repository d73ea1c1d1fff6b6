"""``Outcome``: what the packages do with an architecture."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """The answer of a check, as it stands in the table.

    Attributes:
        answer: ``yes``, ``no``, or another word in a cell of the table.
        reason: One sentence that explains the answer, where the answer is not the usual one.
    """

    answer: str
    reason: str = ""


YES = Outcome("yes")
NOT_APPLICABLE = Outcome("–")


def because(answer: str, reason: object) -> Outcome:
    """Return an answer with a reason, which is an error or a text, and must be one sentence."""
    text = str(reason)
    assert text, "the refusal is empty"
    assert "\n" not in text, f"the refusal is longer than a line: {text}"
    assert "Traceback" not in text, text
    return Outcome(answer, text)
