"""Prompt-lookup speculation: drafts of the next tokens, copied from where the last tokens occurred before.

A draft is computed beside the sequence's next token, in one step, and each of its tokens is kept if the sampler chooses
it. So the text is that without drafts; only the number of steps differs. Copies of the prompt (edits, summaries, code)
and repetitions take few steps (Saxena, https://github.com/apoorvumang/prompt-lookup-decoding).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from slm_kv.errors import KVError
from slm_kv.sampling.ngram_index import NgramIndex

Speculate = Literal["auto", "off"]

MAX_LENGTH = 15  # tokens of a draft
MAX_DECODE_ROWS = 16  # of a step, drafts included: the compiled products of a few rows read the weights once
# In tokens. A failed draft loses time, for which credit must exist: of 80 tokens, at most 0.5 + 0.8, which is 1.6 %.
FIRST_CREDIT, MAX_CREDIT, CREDIT_PER_TOKEN = 0.5, 3.0, 0.01
# How likely a drafted token is sampled after an n-gram of each size, before any was drafted: as if seen in so many.
FIRST_RATES, FIRST_TRIALS = {4: 0.8, 3: 0.6, 2: 0.4}, 2.0
MEMORY = 0.98  # what a step leaves of the weight of earlier drafts


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


class AcceptanceRate:
    """How likely a drafted token is sampled, if those before it were; recent drafts count most.

    Args:
        first: The rate before any draft.
    """

    def __init__(self, first: float) -> None:
        self._first, self._accepted, self._trials = first, 0.0, 0.0

    def record(self, drafted: int, accepted: int) -> None:
        """Take the result of a draft."""
        self._accepted += accepted
        self._trials += accepted + (accepted < drafted)  # the tokens after a rejected one were not tried

    def forget(self) -> None:
        """Give earlier drafts less weight, so that a rate that was low is tried again."""
        self._accepted *= MEMORY
        self._trials *= MEMORY

    def worthwhile_length(self, row_cost: float) -> int:
        """The number of tokens whose chance to be reached and sampled exceeds their cost."""
        rate = (self._accepted + self._first * FIRST_TRIALS) / (self._trials + FIRST_TRIALS)
        return int(math.log(row_cost) / math.log(rate)) if row_cost < rate else 0


class Drafter:
    """Drafts one sequence's next tokens: longer drafts while they are accepted, none where they fail.

    A drafted token costs a row of a step, and an accepted one saves a step. Credit, in tokens, pays for the rows: it
    begins with a little, grows a little with each token, and by accepted tokens. So the loss is limited.

    Args:
        token_ids: The sequence's prompt and generated tokens, to which its owner appends.
    """

    def __init__(self, token_ids: Sequence[int]) -> None:
        self._index = NgramIndex(token_ids)
        self._rates = {size: AcceptanceRate(rate) for size, rate in FIRST_RATES.items()}
        self._credit, self._row_cost, self._size = FIRST_CREDIT, 1.0, 0

    def draft(self, limit: int, row_cost: float) -> tuple[int, ...]:
        """Return at most ``limit`` tokens that may come next, each of which costs ``row_cost`` tokens."""
        self._size, start = self._index.find()
        self._row_cost = row_cost
        if not self._size:
            return ()
        affordable = min(limit, MAX_LENGTH, int(self._credit / row_cost))
        length = min(affordable, self._rates[self._size].worthwhile_length(row_cost))
        return self._index.continuation(start, length)

    def record(self, drafted: int, accepted: int) -> None:
        """Take the result of a step with the last draft, or without one (0 and 0)."""
        earned = accepted + CREDIT_PER_TOKEN * (accepted + 1) - drafted * self._row_cost
        self._credit = min(self._credit + earned, MAX_CREDIT)
        for rate in self._rates.values():
            rate.forget()
        if drafted:
            self._rates[self._size].record(drafted, accepted)
