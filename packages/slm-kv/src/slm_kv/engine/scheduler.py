"""Deciding which rows the next step computes: decode rows first, then chunks of prompts."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from slm_kv.engine.sequence import Sequence
from slm_kv.errors import PoolFull
from slm_kv.pages.block_table import PageCopy
from slm_kv.pages.pool import PagePool
from slm_kv.sampling.speculation import MAX_DECODE_ROWS, Drafter, SpeculationCounts
from slm_kv.sampling.step_times import StepTimes


@dataclass(frozen=True)
class Work:
    """The next ``count`` tokens of one sequence.

    Attributes:
        samples: Whether the next token is sampled from them, because they are the last known ones.
        draft: The last of the ``count`` tokens, if they are a guess: tokens are sampled as long as they confirm it.
        checks_keys: Whether its keys are to be checked for NaN. Behind a window, the logits do not depend on all tokens
            of a chunk, so that they cannot tell.
    """

    sequence: Sequence
    count: int
    samples: bool
    draft: tuple[int, ...] = ()
    checks_keys: bool = False

    @property
    def decodes(self) -> bool:
        """Whether it has one known token. Its rows, also those of a draft, are computed like those of sequences."""
        return self.count == 1 + len(self.draft)

    @property
    def token_ids(self) -> list[int]:
        """The tokens to compute."""
        known = self.sequence.next_ids(self.count - len(self.draft))
        return [*known, *self.draft] if self.draft else known

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
        positions: The number of positions that the model knows: drafts stay within them.
        speculates: Whether sequences that decode get drafts of their next tokens.
    """

    def __init__(
        self, pool: PagePool, max_sequences: int, max_step_tokens: int, positions: int = 0, speculates: bool = False
    ) -> None:
        self.positions, self.speculates = positions, speculates
        self.pool, self.max_sequences, self.max_step_tokens = pool, max_sequences, max_step_tokens
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.preemptions, self.speculation, self.step_times = 0, SpeculationCounts(), StepTimes()

    @property
    def busy(self) -> bool:
        """Whether a sequence runs or waits."""
        return bool(self.running or self.waiting)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        if self.speculates and sequence.may_draft:
            sequence.drafter = Drafter(sequence.token_ids)
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Remove a sequence and release its pages. Does nothing if it was removed before."""
        if not sequence.running:
            if sequence in self.waiting:
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
        if self.speculates and work and all(item.decodes and item.samples for item in work):
            self._add_drafts(work)
            self.step_times.start(len(work), sum(item.count for item in work))
        return Plan(tuple(work), tuple(copies))

    def _add_drafts(self, work: list[Work]) -> None:
        """Add drafts with the rows and pages that are left; nothing else waits for them."""
        rows = min(self._remaining_rows(work), MAX_DECODE_ROWS - len(work))
        cost, spare = self.step_times.row_cost(len(work)), self._growing_sequences()
        for index, item in enumerate(work):
            draft = self._draft(item.sequence, rows, cost, spare)
            if draft:
                # No copies: the first row's page is the sequence's own by now.
                self.pool.reserve(item.sequence.block_table, 1 + len(draft))
                work[index] = replace(item, count=1 + len(draft), draft=draft)
                rows -= len(draft)

    def _draft(self, sequence: Sequence, rows: int, cost: float, spare: int) -> tuple[int, ...]:
        """Draft at most ``rows`` tokens within the request's limits, the positions and all but ``spare`` pages."""
        drafter, table, pool = sequence.drafter, sequence.block_table, self.pool
        if drafter is None:
            return ()
        pages = max(0, pool.free_pages - spare)  # as for _admit: nobody is preempted for a draft
        slots = (len(table.pages) + pages) * pool.page_size - table.length
        limit = min(rows, slots - 1, self.positions - sequence.position - 1, sequence.remaining_tokens - 1)
        return drafter.draft(limit, cost) if limit > 0 else ()

    def end_draft(self, work: Work, tokens: int) -> None:
        """Release the pages of rejected tokens, after a step in which a sequence got ``tokens`` tokens."""
        sequence, drafted, accepted = work.sequence, len(work.draft), max(tokens - 1, 0)
        if drafted:
            self.pool.truncate(sequence.block_table, sequence.block_table.length)
            self.speculation.add(drafted, accepted)
            sequence.handle.speculation.add(drafted, accepted)
        if sequence.drafter and work.decodes:
            sequence.drafter.record(drafted, accepted)
        self.step_times.end_item()

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
                samples = count == sequence.pending
                checks_keys = self.pool.window is not None and (count > 1 or not samples)
                work.append(Work(sequence, count, samples, checks_keys=checks_keys))
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
        if not (self.pool.prefix_caching and sequence.reusable_ids):
            return False
        for running in self.running:
            same_weights = running.prefix_root == sequence.prefix_root
            if running.pending > 1 and same_weights and running.block_table.chained:
                shared = self._shared_tokens(running.context, sequence.reusable_ids)
                if shared and self._unknown_tokens(sequence, shared) * 2 >= running.pending:
                    return True
        return False

    def _unknown_tokens(self, sequence: Sequence, tokens: int) -> int:
        """How many of the sequence's first ``tokens`` are in no known pages."""
        return tokens - self.pool.cached_prefix(sequence.reusable_ids, sequence.prefix_root)

    def _shared_tokens(self, context: list[int], other: list[int]) -> int:
        """The length of the common beginning, in whole pages, that ``other`` can reuse."""
        size, shared = self.pool.page_size, 0
        while shared + size < len(other) and context[shared : shared + size] == other[shared : shared + size]:
            shared += size
        return shared

    def _admit(self, sequence: Sequence) -> bool:
        """Start a waiting sequence if there are free pages for its tokens and one more for each one that may grow.

        Without these extra pages, the running sequences would soon preempt the one just admitted.
        """
        table = self.pool.open(sequence.reusable_ids, sequence.prefix_root)
        needed = self.pool.largest_need(table, len(sequence.context) - table.tokens, self.max_step_tokens)
        if needed > self.pool.free_pages or needed + self._growing_sequences() > self.pool.free_pages:
            self.pool.release(table)
            return False
        self.waiting.remove(sequence)
        self.running.append(sequence)
        sequence.start(table)
        return True

    def _growing_sequences(self) -> int:
        """The number of running sequences whose pages do not suffice for all tokens that they may get."""
        # The keys and values of the last token are never read.
        tokens = ((each.block_table, each.pending + each.remaining_tokens - 1) for each in self.running)
        return sum(self.pool.pages_needed(table, count) > 0 for table, count in tokens)
