"""Any history of a pool leaves every sequence with just the tokens that were written for it."""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from slm_kv.errors import PoolFull
from slm_kv.pages.block_table import BlockTable
from slm_kv.pages.pool import PagePool

# Few tokens and roots, so that prefixes meet.
TOKENS = st.lists(st.integers(0, 1), min_size=1, max_size=7)


@dataclass
class Written:
    """A table, and what must stand in its slots: (root, the tokens up to there)."""

    table: BlockTable
    slots: list[tuple[bytes, tuple[int, ...]]] = field(default_factory=list)
    history: tuple[int, ...] = ()


class Pages(RuleBasedStateMachine):
    """``memory`` stands for the tensors: it is written by copies and commits alone, never cleared."""

    @initialize(page_size=st.integers(1, 3), max_pages=st.integers(1, 16), caching=st.integers(0, 4).map(bool))
    def make(self, page_size: int, max_pages: int, caching: bool) -> None:
        self.pool = PagePool(page_size, max_pages, prefix_caching=caching)
        self.memory: dict[tuple[int, int], tuple[bytes, tuple[int, ...]]] = {}
        self.open: list[Written] = []

    @rule(tokens=TOKENS, root=st.sampled_from([b"", b"other"]))
    def begin(self, tokens: list[int], root: bytes) -> None:
        held, known = self.pool.used_pages, self.pool.cached_prefix(tokens, root)
        assert self.pool.used_pages == held
        table = self.pool.open(tokens, root)
        assert table.length == known
        assert table.length % self.pool.page_size == 0
        assert table.length < len(tokens) or not table.length
        reused = tuple(tokens[: table.length])
        slots = [(root, reused[: index + 1]) for index in range(table.length)]
        self.open.append(Written(table, slots, reused))
        self._write(self.open[-1], tokens[table.length :])

    @precondition(lambda self: self.open)
    @rule(data=st.data(), tokens=TOKENS)
    def begin_with_the_text_of_another(self, data: st.DataObject, tokens: list[int]) -> None:
        one = data.draw(st.sampled_from(self.open))
        self.begin([*(token for token in one.history if token >= 0), *tokens], one.table.root)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), tokens=st.integers(0, 7))
    def reserve_ahead(self, data: st.DataObject, tokens: int) -> None:
        self._reserve(data.draw(st.sampled_from(self.open)), tokens)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), tokens=TOKENS, sound=st.booleans())
    def write(self, data: st.DataObject, tokens: list[int], sound: bool) -> None:
        self._write(data.draw(st.sampled_from(self.open)), tokens, sound)

    def _reserve(self, one: Written, tokens: int) -> bool:
        """Whether there was room."""
        needed, free = self.pool.pages_needed(one.table, tokens), self.pool.free_pages
        before = list(one.table.pages)
        try:
            copies = self.pool.reserve(one.table, tokens)
        except PoolFull:
            assert needed > free
            assert one.table.pages == before
            assert self.pool.free_pages == free
            return False
        assert self.pool.free_pages == free - needed
        assert self.pool.free_pages == free - needed
        for copy in copies:
            for slot in range(self.pool.page_size):
                if (copy.source, slot) in self.memory:
                    self.memory[copy.target, slot] = self.memory[copy.source, slot]
        return True

    def _write(self, one: Written, tokens: list[int], sound: bool = True) -> None:
        if not self._reserve(one, len(tokens)):
            return
        for token in tokens:
            one.history += (token,)
            page, slot = divmod(len(one.slots), self.pool.page_size)
            one.slots.append((one.table.root, one.history))
            self.memory[one.table.pages[page], slot] = one.slots[-1]
        idle, known = self.pool.cached_pages, self.pool.cached_prefix([*one.history, 0], one.table.root)
        self.pool.commit(one.table, tokens, sound=sound)
        if not sound:
            assert (self.pool.cached_pages, self.pool.cached_prefix([*one.history, 0], one.table.root)) == (idle, known)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.open))
        self.open.append(Written(self.pool.fork(one.table), list(one.slots), one.history))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.open))
        length = data.draw(st.integers(0, one.table.length))
        self.pool.truncate(one.table, length)
        del one.slots[length:]
        one.history = one.slots[-1][1] if one.slots else ()

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.open))
        full = one.table.length // self.pool.page_size
        first = data.draw(st.integers(0, full))
        count = data.draw(st.integers(0, full - first))
        self.pool.drop(one.table, first, count)
        del one.slots[first * self.pool.page_size : (first + count) * self.pool.page_size]
        if count:
            one.history += (-1,)  # what is computed from here on saw other tokens than a prompt of the same text

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        one = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        self.pool.release(one.table)

    @precondition(lambda self: self.pool.cached_pages > 4)
    @rule()
    def forget_all(self) -> None:
        self.pool.clear_cache()

    @invariant()
    def every_table_reads_what_was_written_for_it(self) -> None:
        for one in getattr(self, "open", []):
            assert one.table.length == len(one.slots)
            for index, expected in enumerate(one.slots):
                page, slot = divmod(index, self.pool.page_size)
                assert self.memory[one.table.pages[page], slot] == expected

    @invariant()
    def the_laws_of_the_pool_hold(self) -> None:
        if hasattr(self, "pool"):
            self.pool.check_integrity()

    def teardown(self) -> None:
        for one in getattr(self, "open", []):
            self.pool.release(one.table)
        if hasattr(self, "pool"):
            assert (self.pool.used_pages, self.pool.filled_slots) == (0, 0)
            self.pool.check_integrity()


TestPages = Pages.TestCase
TestPages.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
