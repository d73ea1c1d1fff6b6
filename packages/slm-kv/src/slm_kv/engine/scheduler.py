"""Which rows the next step computes: decode first, then prompts in chunks, by pages and a budget of rows."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from slm_kv.errors import PoolFull
from slm_kv.pages.pool import PageCopy, PagePool
from slm_kv.engine.sequence import Sequence


@dataclass(frozen=True)
class Work:
    """The next ``count`` tokens of one sequence; ``samples`` when they are the last that are known."""

    sequence: Sequence
    count: int
    samples: bool

    @property
    def wanted(self) -> bool:
        """Whether any of its logits are."""
        return self.samples or self.sequence.wants_prompt_rows


@dataclass(frozen=True)
class Plan:
    """One step: the pages to copy first, then the rows to compute."""

    work: tuple[Work, ...]
    copies: tuple[PageCopy, ...]


class Scheduler:
    """First come, first served, but for those that had better wait for a prefix. No sequence may know more tokens
    than all pages hold: alone, each finds room."""

    def __init__(self, pool: PagePool, max_sequences: int, max_step_tokens: int) -> None:
        self.pool, self.max_sequences, self.max_step_tokens = pool, max_sequences, max_step_tokens
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.preemptions = 0

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take it out and give its pages back."""
        if sequence.table is None:
            self.waiting.remove(sequence)
            return
        self.running.remove(sequence)
        self.pool.release(sequence.table)
        sequence.end()

    def forget(self, sequence: Sequence) -> None:
        """Give the pages of a running sequence back; it goes on from an empty table."""
        self.pool.release(sequence.held)
        sequence.begin(self.pool.open((), sequence.root))

    def plan(self) -> Plan:
        """The next step. Empty only when nothing waits or runs."""
        work: list[Work] = []
        copies: list[PageCopy] = []
        for sequence in sorted(self.running, key=lambda one: one.pending > 1):
            self._take(sequence, work, copies)
        for sequence in list(self.waiting):
            if len(self.running) == self.max_sequences or not self._left(work):
                break
            if self._had_better_wait(sequence):
                continue
            if not self._admit(sequence):
                break
            self._take(sequence, work, copies)
        return Plan(tuple(work), tuple(copies))

    def _left(self, work: list[Work]) -> int:
        return self.max_step_tokens - sum(one.count for one in work)

    def _take(self, sequence: Sequence, work: list[Work], copies: list[PageCopy]) -> None:
        """Add the sequence's next rows, if it still runs, the budget has room, and pages can be found."""
        while sequence.table is not None:
            count = min(sequence.pending, self._left(work))
            if count == 0:
                return
            try:
                copies += self.pool.reserve(sequence.table, count)
            except PoolFull:
                if not self._make_room(sequence, work):
                    return
            else:
                work.append(Work(sequence, count, count == sequence.pending))
                return

    def _make_room(self, sequence: Sequence, work: list[Work]) -> bool:
        """Preempt the youngest that has no rows in this step yet; True when it is worth trying again."""
        planned = {id(one.sequence) for one in work}
        youngest = [one for one in self.running if id(one) not in planned][-1]
        assert len(self.running) > 1, "a sequence alone finds no page: it knows more than the pool holds"
        self.preempt(youngest)
        return youngest is not sequence

    def preempt(self, sequence: Sequence) -> None:
        """Give its pages back; it waits in front, and computes them again when its turn comes."""
        self.remove(sequence)
        self.preemptions += 1
        self.waiting.appendleft(sequence)

    def _had_better_wait(self, sequence: Sequence) -> bool:
        """Whether one that runs is computing tokens that this one begins with, at least half of what that one has left:
        several texts of one new prompt, or behind one long instruction, compute it once."""
        if not (self.pool.prefix_caching and sequence.reuses_prefix):
            return False
        for one in self.running:
            if one.pending > 1 and one.root == sequence.root and one.held.chained:
                shared = self._shared_tokens(one.context, sequence.context)
                if shared and 2 * (shared - self.pool.cached_prefix(sequence.context, sequence.root)) >= one.pending:
                    return True
        return False

    def _shared_tokens(self, one: list[int], other: list[int]) -> int:
        """How many tokens both begin with, in whole pages that ``other`` can reuse."""
        size, shared = self.pool.page_size, 0
        while shared + size < len(other) and one[shared : shared + size] == other[shared : shared + size]:
            shared += size
        return shared

    def _admit(self, sequence: Sequence) -> bool:
        """Start one that waits, where pages for all that it knows are free, and one more for each that runs."""
        table = self.pool.open(sequence.context if sequence.reuses_prefix else (), sequence.root)
        wanted = self.pool.pages_needed(table, len(sequence.context) - table.length)
        if wanted + len(self.running) > self.pool.free_pages:
            self.pool.release(table)
            return False
        self.waiting.remove(sequence)
        self.running.append(sequence)
        sequence.begin(table)
        return True
