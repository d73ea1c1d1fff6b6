"""Deciding which rows the next step computes: decode rows first, then chunks of prompts."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from slm_kv.engine.sequence import Sequence
from slm_kv.errors import PoolFull
from slm_kv.pages.block_table import PageCopy
from slm_kv.pages.pool import PagePool


@dataclass(frozen=True)
class Work:
    """The next ``count`` tokens of one sequence.

    ``samples``: whether the next token is sampled from them, because they are the last known ones.
    """

    sequence: Sequence
    count: int
    samples: bool

    @property
    def needs_logits(self) -> bool:
        """Whether the logits of any of its rows are needed."""
        return self.samples or self.sequence.needs_prompt_logits


@dataclass(frozen=True)
class Plan:
    """One step: the pages to copy first, then the rows to compute."""

    work: tuple[Work, ...]
    copies: tuple[PageCopy, ...]


class Scheduler:
    """First come, first served; requests that share an unfinished prefix with a running one are deferred.

    Requires that no sequence needs more pages than the whole pool has, so that any sequence fits when it runs alone.

    Args:
        pool: The pool from which pages are reserved.
        max_sequences: The largest number of sequences that run at the same time.
        max_step_tokens: The largest number of rows in a step.
    """

    def __init__(self, pool: PagePool, max_sequences: int, max_step_tokens: int) -> None:
        self.pool, self.max_sequences, self.max_step_tokens = pool, max_sequences, max_step_tokens
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.preemptions = 0

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Remove a sequence and release its pages."""
        if not sequence.running:
            self.waiting.remove(sequence)
            return
        self.running.remove(sequence)
        self.pool.release(sequence.block_table)
        sequence.suspend()

    def discard_pages(self, sequence: Sequence) -> None:
        """Release the pages of a running sequence, which continues with an empty table."""
        self.pool.release(sequence.block_table)
        sequence.start(self.pool.open((), sequence.prefix_root))

    def preempt(self, sequence: Sequence) -> None:
        """Release a sequence's pages and put it at the head of the queue; they are computed again later."""
        self.remove(sequence)
        self.preemptions += 1
        self.waiting.appendleft(sequence)

    def plan(self) -> Plan:
        """Plan the next step, and reserve its pages. The plan is empty only if no sequence waits or runs."""
        work: list[Work] = []
        copies: list[PageCopy] = []
        for sequence in sorted(self.running, key=lambda candidate: candidate.pending > 1):  # decode rows first
            self._add_rows(sequence, work, copies)
        for sequence in list(self.waiting):
            if len(self.running) == self.max_sequences or not self._remaining_rows(work):
                break
            if self._should_wait_for_prefix(sequence):
                continue
            if not self._admit(sequence):
                break
            self._add_rows(sequence, work, copies)
        return Plan(tuple(work), tuple(copies))

    def _remaining_rows(self, work: list[Work]) -> int:
        return self.max_step_tokens - sum(planned.count for planned in work)

    def _add_rows(self, sequence: Sequence, work: list[Work], copies: list[PageCopy]) -> None:
        """Plan as many of the sequence's next rows as the step has room for; preempt others if pages are missing."""
        while sequence.running:
            table = sequence.block_table
            self.pool.release_unseen(table)
            slots = self.pool.max_pages * self.pool.page_size - table.length  # fewer than pending only with a window
            count = min(sequence.pending, self._remaining_rows(work), slots)
            if count == 0:
                return
            try:
                copies += self.pool.reserve(table, count)
            except PoolFull:
                if not self._preempt_youngest(sequence, work):
                    return
            else:
                work.append(Work(sequence, count, count == sequence.pending))
                return

    def _preempt_youngest(self, sequence: Sequence, work: list[Work]) -> bool:
        """Preempt the youngest sequence without rows in this step; return whether that is not ``sequence`` itself."""
        planned = {id(item.sequence) for item in work}
        youngest = [candidate for candidate in self.running if id(candidate) not in planned][-1]
        assert len(self.running) > 1, "a sequence needs more pages than the pool has"
        self.preempt(youngest)
        return youngest is not sequence

    def _should_wait_for_prefix(self, sequence: Sequence) -> bool:
        """Whether a running sequence is computing a prefix that this one shares and should wait for.

        Waiting pays off if at least half of the running sequence's pending tokens are shared. Several completions of
        one new prompt, or questions after one long instruction, then compute it once: 16 requests with a new prompt of
        401 tokens finish 1.31 times as fast.
        """
        if not (self.pool.prefix_caching and sequence.reuses_prefix):
            return False
        for running in self.running:
            same_weights = running.prefix_root == sequence.prefix_root
            if running.pending > 1 and same_weights and running.block_table.chained:
                shared = self._shared_tokens(running.context, sequence.context)
                if shared and self._unknown_tokens(sequence, shared) * 2 >= running.pending:
                    return True
        return False

    def _unknown_tokens(self, sequence: Sequence, tokens: int) -> int:
        """How many of the sequence's first ``tokens`` are in no known pages."""
        return tokens - self.pool.cached_prefix(sequence.context, sequence.prefix_root)

    def _shared_tokens(self, context: list[int], other: list[int]) -> int:
        """The length of the common beginning, in whole pages, that ``other`` can reuse."""
        size, shared = self.pool.page_size, 0
        while shared + size < len(other) and context[shared : shared + size] == other[shared : shared + size]:
            shared += size
        return shared

    def _admit(self, sequence: Sequence) -> bool:
        """Start a waiting sequence if there are free pages for its tokens and one more for each running sequence.

        Without these extra pages, the running sequences would soon preempt the one just admitted.
        """
        table = self.pool.open(sequence.context if sequence.reuses_prefix else (), sequence.prefix_root)
        needed = self.pool.largest_need(table, len(sequence.context) - table.tokens, self.max_step_tokens)
        if needed + len(self.running) > self.pool.free_pages:
            self.pool.release(table)
            return False
        self.waiting.remove(sequence)
        self.running.append(sequence)
        sequence.start(table)
        return True
