"""The pool's bookkeeping: who holds which page. No tensors here; a page is a number.

A page is free, or idle (a known prefix that no table holds, taken when no free one is left, the longest unused
first), or held by one table or several.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from slm_kv.errors import KVError, PoolFull
from slm_kv.pages.prefix_index import PrefixIndex, page_key


class BlockTable:
    """One sequence's ``pages``, in order; ``length`` tokens are in them. Made by a PagePool."""

    def __init__(self, root: bytes, pages: Sequence[int] = (), length: int = 0) -> None:
        self.root = root
        self.pages = list(pages)
        self.length = length
        self.keys: list[bytes] = []  # of its full pages; fewer once the chain is broken
        self.unfinished: list[int] = []  # the tokens after them: of its last page, and of pages that are not sound yet
        self.chained = True


@dataclass(frozen=True)
class PageCopy:
    """The contents of page ``source`` have to be in page ``target`` before that is written to."""

    source: int
    target: int


class PagePool:
    """``max_pages`` pages of ``page_size`` tokens. With ``prefix_caching`` full pages stay known by their tokens.

    Raises KVError for sizes below 1.
    """

    def __init__(self, page_size: int, max_pages: int, *, prefix_caching: bool = True) -> None:
        for name, number in (("page_size", page_size), ("max_pages", max_pages)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise KVError(f"{name}={number!r} is no whole number of at least 1")
        self.page_size, self.max_pages, self.prefix_caching = page_size, max_pages, prefix_caching
        self._free = deque(range(max_pages))
        self._holders = [0] * max_pages
        self._index = PrefixIndex()
        self._tables: dict[int, BlockTable] = {}

    @property
    def free_pages(self) -> int:
        """Pages that can be had now: free ones, and idle ones that would be evicted."""
        return len(self._free) + len(self._index.idle)

    @property
    def cached_pages(self) -> int:
        """Idle pages: known prefixes that no table holds."""
        return len(self._index.idle)

    @property
    def used_pages(self) -> int:
        """Pages that tables hold; a shared one counts once."""
        return self.max_pages - self.free_pages

    @property
    def used_slots(self) -> int:
        """Slots of the pages that tables hold."""
        return self.used_pages * self.page_size

    @property
    def filled_slots(self) -> int:
        """Slots that hold a token's keys and values, in pages that tables hold."""
        filled: dict[int, int] = {}
        for table in self._tables.values():
            for index, page in enumerate(table.pages):
                tokens = min(self.page_size, max(0, table.length - index * self.page_size))
                filled[page] = max(tokens, filled.get(page, 0))
        return sum(filled.values())

    def pages_for(self, tokens: int) -> int:
        """How many pages ``tokens`` tokens take."""
        return -(-tokens // self.page_size)

    def open(self, token_ids: Sequence[int] = (), root: bytes = b"") -> BlockTable:
        """A table that holds the longest known prefix of ``token_ids`` under ``root``, whole pages, less one token at
        least: its logits are still to be computed. ``length`` says how many tokens that are."""
        known = self._known(token_ids, root)
        table = BlockTable(root, known, len(known) * self.page_size)
        table.keys = [self._index.keys[page] for page in known]
        self._hold(known)
        self._tables[id(table)] = table
        return table

    def cached_prefix(self, token_ids: Sequence[int], root: bytes = b"") -> int:
        """How many tokens ``open`` would reuse. Changes nothing."""
        return len(self._known(token_ids, root)) * self.page_size

    def pages_needed(self, table: BlockTable, tokens: int) -> int:
        """What ``reserve`` would take of ``free_pages``."""
        missing = self.pages_for(table.length + tokens) - len(table.pages)
        return max(0, missing) + (self._shared_tail(table, tokens) is not None)

    def reserve(self, table: BlockTable, tokens: int) -> list[PageCopy]:
        """Take pages for ``tokens`` more tokens. A page that would be written to and is not the table's alone is
        replaced: what to copy comes back. All or nothing: raises PoolFull, and changes nothing, where pages lack."""
        self._check_open(table)
        needed = self.pages_needed(table, tokens)
        if needed > self.free_pages:
            raise PoolFull(f"pages wanted: {needed}; of max_pages={self.max_pages}, {self.free_pages} are free")
        copies = []
        tail = self._shared_tail(table, tokens)
        if tail is not None:
            (own,) = self._take(1)
            copies.append(PageCopy(table.pages[tail], own))
            self._let_go(table.pages[tail])
            table.pages[tail] = own
        elif tokens and table.length < len(table.pages) * self.page_size:
            self._index.forget(table.pages[table.length // self.page_size])  # its contents are about to change
        table.pages += self._take(self.pages_for(table.length + tokens) - len(table.pages))
        return copies

    def commit(self, table: BlockTable, token_ids: Sequence[int], *, sound: bool = True) -> None:
        """The keys and values of ``token_ids`` are now in the pages, after ``length``. Full pages become known; those
        of tokens that are not said to be ``sound`` wait for the next that are, be they none."""
        self._check_open(table)
        assert table.length + len(token_ids) <= len(table.pages) * self.page_size, "commit of more than was reserved"
        assert not len(token_ids) or self._is_own(table.pages[table.length // self.page_size]), "commit without reserve"
        table.length += len(token_ids)
        if not (self.prefix_caching and table.chained):
            return
        table.unfinished += token_ids
        if not sound:
            return
        full = len(table.unfinished) // self.page_size * self.page_size
        for first in range(0, full, self.page_size):
            page_ids = table.unfinished[first : first + self.page_size]
            key = page_key(table.keys[-1] if table.keys else table.root, page_ids)
            self._index.add(key, table.pages[len(table.keys)])
            table.keys.append(key)
        del table.unfinished[:full]

    def fork(self, table: BlockTable) -> BlockTable:
        """Another table of the same tokens. The filled pages are shared until one of the two writes to them."""
        self._check_open(table)
        shared = table.pages[: self.pages_for(table.length)]
        forked = BlockTable(table.root, shared, table.length)
        forked.keys, forked.unfinished, forked.chained = list(table.keys), list(table.unfinished), table.chained
        self._hold(shared)
        self._tables[id(forked)] = forked
        return forked

    def truncate(self, table: BlockTable, length: int) -> None:
        """Forget the tokens past ``length``; pages past it are given back."""
        self._check_open(table)
        assert 0 <= length <= table.length, f"truncate to {length} of {table.length} tokens"
        kept = self.pages_for(length)
        for page in reversed(table.pages[kept:]):
            self._let_go(page)
        del table.pages[kept:]
        if length < table.length:
            self._cut_chain(table, length)
        table.length = length

    def drop(self, table: BlockTable, first: int, count: int) -> None:
        """Give back ``count`` full pages from the one at ``first`` on. Pages after them are never known again: what
        they hold was computed after tokens that are gone."""
        self._check_open(table)
        assert 0 <= first <= first + count <= table.length // self.page_size, "drop of a page that is not full"
        if count == 0:
            return
        for page in reversed(table.pages[first : first + count]):
            self._let_go(page)
        del table.pages[first : first + count]
        table.length -= count * self.page_size
        table.chained, table.unfinished, table.keys = False, [], table.keys[:first]

    def release(self, table: BlockTable) -> None:
        """Close the table. Known pages stay idle, the last ones to be evicted first."""
        self._check_open(table)
        del self._tables[id(table)]
        for page in reversed(table.pages):
            self._let_go(page)

    def clear_cache(self) -> None:
        """Make every page unknown, as after a change of weights."""
        self._free.extend(self._index.idle)
        self._index = PrefixIndex()
        for table in self._tables.values():
            table.chained, table.unfinished = False, []

    def check_integrity(self) -> None:
        """Raises AssertionError that names the first law that does not hold."""
        free, idle = set(self._free), set(self._index.idle)
        held = Counter(page for table in self._tables.values() for page in table.pages)
        assert len(free) == len(self._free), "a page is free twice"
        assert len(free | idle | held.keys()) == self.max_pages, "a page is lost"
        assert len(free) + len(idle) + len(held) == self.max_pages, "a page is two of free, idle and held"
        assert all(held[page] == count for page, count in enumerate(self._holders)), "holders are miscounted"
        known = self._index.keys
        assert {key: page for page, key in known.items()} == self._index.pages, "the index does not agree with itself"
        assert idle == known.keys() - held.keys(), "a page that is known and not held is not idle, or the reverse"
        for table in self._tables.values():
            self._check_table(table)

    def _check_table(self, table: BlockTable) -> None:
        assert len(set(table.pages)) == len(table.pages), "a table holds a page twice"
        assert 0 <= table.length <= len(table.pages) * self.page_size, "a table's tokens exceed its pages"
        if self.prefix_caching and table.chained:
            chained = len(table.keys) * self.page_size + len(table.unfinished)
            assert chained == table.length, "a table's chain is not of its tokens"

    def _check_open(self, table: BlockTable) -> None:
        assert self._tables.get(id(table)) is table, "the table is closed, or another pool's"

    def _known(self, token_ids: Sequence[int], root: bytes) -> list[int]:
        return self._index.find(root, token_ids[: max(0, len(token_ids) - 1)], self.page_size)

    def _is_own(self, page: int) -> bool:
        """Whether a write to ``page`` is seen by nobody but the one table that holds it."""
        return self._holders[page] == 1 and page not in self._index.keys

    def _shared_tail(self, table: BlockTable, tokens: int) -> int | None:
        """The index of the partly filled page that comes next, where another table holds it too."""
        index, filled = divmod(table.length, self.page_size)
        return index if tokens and filled and self._holders[table.pages[index]] > 1 else None

    def _cut_chain(self, table: BlockTable, length: int) -> None:
        """Go back to the chain of ``length`` tokens. Those of its last, partly filled page are not known any more."""
        full, rest = divmod(length, self.page_size)
        if len(table.keys) > full or not table.chained:
            table.chained = table.chained and rest == 0
            table.unfinished = []
        else:
            del table.unfinished[length - len(table.keys) * self.page_size :]
        del table.keys[full:]

    def _hold(self, pages: Sequence[int]) -> None:
        for page in pages:
            self._index.idle.pop(page, None)
            self._holders[page] += 1

    def _let_go(self, page: int) -> None:
        self._holders[page] -= 1
        if self._holders[page]:
            return
        if page in self._index.keys:
            self._index.idle[page] = None
        else:
            self._free.append(page)

    def _take(self, count: int) -> list[int]:
        taken = []
        for _ in range(count):
            page = self._free.popleft() if self._free else next(iter(self._index.idle))
            self._index.forget(page)
            self._holders[page] = 1
            taken.append(page)
        return taken
