"""Whatever happens to a pool, each table reads the tokens that were written for it (a hypothesis state machine)."""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from slm_kv.errors import PoolFull
from slm_kv.pages.block_table import BlockTable
from slm_kv.pages.pool import PagePool

# Few different tokens and roots, so that prefixes coincide.
TOKENS = st.lists(st.integers(0, 1), min_size=1, max_size=7)


@dataclass
class Written:
    """A table and the expected contents of its slots: (root, the tokens up to this one)."""

    table: BlockTable
    slots: list[tuple[bytes, tuple[int, ...]]] = field(default_factory=list)
    history: tuple[int, ...] = ()


class Pages(RuleBasedStateMachine):
    """``memory`` stands for the tensors: only copies and commits write to it, and it is never cleared."""

    @initialize(
        page_size=st.integers(1, 3),
        max_pages=st.integers(1, 16),
        caching=st.integers(0, 4).map(bool),
        window=st.sampled_from([None, None, 1, 2, 4, 7]),
    )
    def make(self, page_size: int, max_pages: int, caching: bool, window: int | None) -> None:
        self.pool = PagePool(page_size, max_pages, prefix_caching=caching, window=window)
        self.memory: dict[tuple[int, int], tuple[bytes, tuple[int, ...]]] = {}
        self.open: list[Written] = []

    @rule(tokens=TOKENS, root=st.sampled_from([b"", b"other"]))
    def begin(self, tokens: list[int], root: bytes) -> None:
        used, known = self.pool.used_pages, self.pool.cached_prefix(tokens, root)
        assert self.pool.used_pages == used
        table = self.pool.open(tokens, root)
        assert table.tokens == known
        assert table.tokens % self.pool.page_size == 0
        assert table.tokens < len(tokens) or not table.tokens
        self._check_released(table, table.released + table.length)
        reused = tuple(tokens[: table.tokens])
        slots = [(root, reused[: index + 1]) for index in range(table.released, table.tokens)]
        self.open.append(Written(table, slots, reused))
        self._write(self.open[-1], tokens[table.tokens :])

    @precondition(lambda self: self.open)
    @rule(data=st.data(), tokens=TOKENS)
    def begin_with_the_tokens_of_another(self, data: st.DataObject, tokens: list[int]) -> None:
        written = data.draw(st.sampled_from(self.open))
        self.begin([*(token for token in written.history if token >= 0), *tokens], written.table.root)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), tokens=st.integers(0, 7))
    def reserve_ahead(self, data: st.DataObject, tokens: int) -> None:
        self._reserve(data.draw(st.sampled_from(self.open)), tokens)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), tokens=TOKENS, verified=st.booleans())
    def write(self, data: st.DataObject, tokens: list[int], verified: bool) -> None:
        self._write(data.draw(st.sampled_from(self.open)), tokens, verified)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def release_unseen(self, data: st.DataObject) -> None:
        written = data.draw(st.sampled_from(self.open))
        length, released = written.table.length, written.table.released
        self.pool.release_unseen(written.table)
        self._check_released(written.table, length)
        del written.slots[: written.table.released - released]

    def _check_released(self, table: BlockTable, length: int) -> None:
        """Assert that of ``length`` tokens all that a later one attends to are in pages, and not a page more."""
        seen = length if self.pool.window is None else min(length, self.pool.window - 1)
        assert seen <= table.length
        assert table.length == length or table.length < seen + self.pool.page_size

    def _reserve(self, written: Written, tokens: int) -> bool:
        """Reserve and return whether there were enough pages."""
        needed, free = self.pool.pages_needed(written.table, tokens), self.pool.free_pages
        before = list(written.table.pages)
        try:
            copies = self.pool.reserve(written.table, tokens)
        except PoolFull:
            assert needed > free
            assert written.table.pages == before
            assert self.pool.free_pages == free
            return False
        assert self.pool.free_pages == free - needed
        for copy in copies:
            for slot in range(self.pool.page_size):
                if (copy.source, slot) in self.memory:
                    self.memory[copy.target, slot] = self.memory[copy.source, slot]
        return True

    def _write(self, written: Written, tokens: list[int], verified: bool = True) -> None:
        if not self._reserve(written, len(tokens)):
            return
        for token in tokens:
            written.history += (token,)
            page, slot = divmod(len(written.slots), self.pool.page_size)
            written.slots.append((written.table.root, written.history))
            self.memory[written.table.pages[page], slot] = written.slots[-1]
        idle, known = self.pool.cached_pages, self.pool.cached_prefix([*written.history, 0], written.table.root)
        self.pool.commit(written.table, tokens, verified=verified)
        if not verified:
            assert (self.pool.cached_pages, self.pool.cached_prefix([*written.history, 0], written.table.root)) == (
                idle,
                known,
            )

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        written = data.draw(st.sampled_from(self.open))
        self.open.append(Written(self.pool.fork(written.table), list(written.slots), written.history))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        written = data.draw(st.sampled_from(self.open))
        before = written.table.length
        least = min(1, written.table.released, before)  # the history of released slots is not recorded
        length = data.draw(st.integers(least, before))
        self.pool.truncate(written.table, length)
        del written.slots[length:]
        if length < before:
            written.history = written.slots[-1][1] if written.slots else ()

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        written = data.draw(st.sampled_from(self.open))
        full = written.table.length // self.pool.page_size
        first = data.draw(st.integers(0, full))
        count = data.draw(st.integers(0, full - first))
        self.pool.drop(written.table, first, count)
        del written.slots[first * self.pool.page_size : (first + count) * self.pool.page_size]
        if count:
            written.history += (-1,)  # later tokens were computed after other tokens than in a prompt of the same text

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        written = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        self.pool.release(written.table)

    @precondition(lambda self: self.pool.cached_pages > 4)
    @rule()
    def forget_all(self) -> None:
        self.pool.clear_cache()

    @invariant()
    def every_table_reads_what_was_written_for_it(self) -> None:
        for written in getattr(self, "open", []):
            assert written.table.length == len(written.slots)
            for index, expected in enumerate(written.slots):
                page, slot = divmod(index, self.pool.page_size)
                assert self.memory[written.table.pages[page], slot] == expected

    @invariant()
    def the_pools_invariants_hold(self) -> None:
        if hasattr(self, "pool"):
            self.pool.check_integrity()

    def teardown(self) -> None:
        for written in getattr(self, "open", []):
            self.pool.release(written.table)
        if hasattr(self, "pool"):
            assert (self.pool.used_pages, self.pool.filled_slots) == (0, 0)
            self.pool.check_integrity()


TestPages = Pages.TestCase
TestPages.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
