"""Prompt-lookup speculation: drafts of the next tokens, copied from where the last tokens occurred before.

A draft is computed beside the sequence's next token, in one step, and each of its tokens is kept if the sampler chooses
it. So the text is that without drafts; only the number of steps differs. Copies of the prompt (edits, summaries, code)
and repetitions take few steps (Saxena, https://github.com/apoorvumang/prompt-lookup-decoding).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from slm_kv.errors import KVError

Speculate = Literal["auto", "off"]

NGRAM_SIZES = (4, 3, 2)  # tokens that must match, the longest first
FIRST_LENGTH, MAX_LENGTH = 4, 15  # tokens of a draft
MAX_DECODE_ROWS = 16  # of a step, drafts included: the compiled products of a few rows read the weights once
ROW_COST = 0.15  # time of one more row in a step, as a part of the time of a step of one row
# In tokens. A failed draft loses time, for which credit must exist: of 80 tokens, at most 0.5 + 0.8, which is 1.6 %.
FIRST_CREDIT, MAX_CREDIT, CREDIT_PER_TOKEN = 0.5, 2.0, 0.01


def require_speculate(speculate: str) -> None:
    """Raise KVError if the setting is unknown."""
    if speculate not in get_args(Speculate):
        raise KVError(f"speculate={speculate!r} is not one of {', '.join(get_args(Speculate))}")


@dataclass
class SpeculationCounts:
    """How many tokens were drafted, and how many of these were sampled."""

    drafted: int = 0
    accepted: int = 0

    def add(self, drafted: int, accepted: int) -> None:
        """Count a draft."""
        self.drafted += drafted
        self.accepted += accepted

    def __str__(self) -> str:
        return f"{self.accepted:,} of {self.drafted:,} drafted tokens accepted"


class NgramIndex:
    """Where the n-grams of a growing text occurred last. A token is added in constant time.

    Args:
        token_ids: The text, to which its owner appends tokens.
    """

    def __init__(self, token_ids: Sequence[int]) -> None:
        self._token_ids, self._indexed = token_ids, 1
        # By the hash of an n-gram, which is smaller; two of one hash give a draft that is not accepted.
        self._next: dict[int, int] = {}

    def continuation(self, length: int) -> tuple[int, ...]:
        """The ``length`` tokens after the most recent earlier occurrence of the longest n-gram at the end of the text.

        A text that repeats itself is continued periodically. Empty without an earlier occurrence.
        """
        self._update()
        ids, end = self._token_ids, len(self._token_ids)
        for size in NGRAM_SIZES:
            start = self._next.get(hash(tuple(ids[end - size :]))) if size <= end else None
            if start is not None:
                period = end - start
                return tuple(ids[start + index % period] for index in range(length))
        return ()

    def _update(self) -> None:
        """Index the n-grams before all tokens that were added."""
        ids = self._token_ids
        for end in range(self._indexed, len(ids)):
            for size in NGRAM_SIZES:
                if size <= end:
                    self._next[hash(tuple(ids[end - size : end]))] = end
        self._indexed = max(self._indexed, len(ids))


class Drafter:
    """Drafts one sequence's next tokens: longer drafts while they are accepted, none where they fail.

    A drafted token costs a row of a step, and an accepted one saves a step. Credit, in tokens, pays for the rows: it
    begins with a little, grows a little with each token, and by accepted tokens. So the loss is limited.

    Args:
        token_ids: The sequence's prompt and generated tokens, to which its owner appends.
    """

    def __init__(self, token_ids: Sequence[int]) -> None:
        self._index = NgramIndex(token_ids)
        self._credit, self._length = FIRST_CREDIT, FIRST_LENGTH

    def draft(self, limit: int, row_cost: float) -> tuple[int, ...]:
        """Return at most ``limit`` tokens that may come next, each of which costs ``row_cost`` tokens."""
        length = min(self._length, limit, int(self._credit / row_cost))
        draft = self._index.continuation(length) if length > 0 else ()
        self._credit -= len(draft) * row_cost
        return draft

    def record(self, drafted: int, accepted: int) -> None:
        """Take the result of a step with a draft, or without one (0 and 0)."""
        self._credit = min(self._credit + accepted + CREDIT_PER_TOKEN * (accepted + 1), MAX_CREDIT)
        if drafted:
            self._length = min(2 * self._length, MAX_LENGTH) if accepted == drafted else max(accepted, 2)


def row_cost(sequences: int) -> float:
    """The time of one more row in a step with a row for each of ``sequences``, in tokens that this time would give.

    It approaches 1 with many sequences: a step then takes as long as its rows, and a draft can only lose.
    """
    return sequences * ROW_COST / (1 + (sequences - 1) * ROW_COST)
