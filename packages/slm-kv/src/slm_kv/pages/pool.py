"""Allocation of pages: reference counts, copy on write, prefix reuse and eviction. No tensors: a page is a number.

A page is in one of three states:
  free      its contents are not needed;
  idle      no table uses it, but it is a known prefix; evicted, least recently used first, if no page is free;
  used      by one or several tables.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from slm_kv.errors import PoolFull, require_at_least
from slm_kv.pages.block_table import BlockTable, PageCopy
from slm_kv.pages.prefix_index import KnownPrefix, PrefixIndex, page_key, unseen_tokens


class PagePool:
    """Allocates ``max_pages`` pages of ``page_size`` tokens to block tables.

    Args:
        page_size: Tokens in a page.
        max_pages: The number of pages.
        prefix_caching: Whether full pages stay known by their tokens after their table has released them.
        window: A token attends to the last ``window`` tokens in any layer, its own included. None: to all.

    Raises:
        KVError: a size is below 1.
    """

    def __init__(
        self, page_size: int, max_pages: int, *, prefix_caching: bool = True, window: int | None = None
    ) -> None:
        require_at_least(1, page_size=page_size, max_pages=max_pages, window=window or 1)
        self.page_size, self.max_pages, self.prefix_caching = page_size, max_pages, prefix_caching
        self.window = window
        self._free = deque(range(max_pages))
        self._reference_counts = [0] * max_pages
        self._index = PrefixIndex()
        self._tables: dict[int, BlockTable] = {}

    @property
    def free_pages(self) -> int:
        """Pages that can be allocated now: free ones, and idle ones, which would be evicted."""
        return len(self._free) + len(self._index.idle)

    @property
    def cached_pages(self) -> int:
        """Idle pages: known prefixes that no table uses."""
        return len(self._index.idle)

    @property
    def used_pages(self) -> int:
        """Pages used by tables; a shared page counts once."""
        return self.max_pages - self.free_pages

    @property
    def used_slots(self) -> int:
        """Slots in the pages used by tables."""
        return self.used_pages * self.page_size

    @property
    def filled_slots(self) -> int:
        """Slots filled with a token's keys and values, in the pages used by tables."""
        filled: dict[int, int] = {}
        for table in self._tables.values():
            for index, page in enumerate(table.pages):
                tokens = min(self.page_size, max(0, table.length - index * self.page_size))
                filled[page] = max(tokens, filled.get(page, 0))
        return sum(filled.values())

    def pages_for(self, tokens: int) -> int:
        """The number of pages that ``tokens`` tokens take."""
        return -(-tokens // self.page_size)

    def open(self, token_ids: Sequence[int] = (), root: bytes = b"") -> BlockTable:
        """Open a table that begins with the longest known prefix of ``token_ids`` under ``root``.

        Only whole pages are reused, and never the last token, whose logits are still needed. The table's ``tokens``
        is the number of reused tokens. It has no pages of those that no later token attends to.
        """
        known = self._known_prefix(token_ids, root)
        released = len(known.keys) - len(known.pages)
        table = BlockTable(root, known.pages, len(known.pages) * self.page_size, released * self.page_size)
        table.keys = known.keys
        self._add_reference(known.pages)
        self._tables[id(table)] = table
        return table

    def cached_prefix(self, token_ids: Sequence[int], root: bytes = b"") -> int:
        """The number of tokens that ``open`` would reuse."""
        return len(self._known_prefix(token_ids, root).keys) * self.page_size

    def largest_need(self, table: BlockTable, tokens: int, at_once: int) -> int:
        """The largest number of pages to allocate while ``tokens`` more are written, at most ``at_once`` in a step.

        It is bounded if pages before the window are released after each step.
        """
        if self.window is None:
            return self.pages_needed(table, tokens)
        bound = min(self.max_pages, self.pages_for(self.page_size + self.window - 2 + at_once))
        return min(self.pages_needed(table, tokens), max(0, bound - len(table.pages)))

    def pages_needed(self, table: BlockTable, tokens: int) -> int:
        """The number of pages that ``reserve`` would allocate."""
        missing = self.pages_for(table.length + tokens) - len(table.pages)
        return max(0, missing) + (self._shared_tail(table, tokens) is not None)

    def reserve(self, table: BlockTable, tokens: int) -> list[PageCopy]:
        """Allocate pages for ``tokens`` more tokens.

        A partly filled page that other tables use too is replaced by a new one (copy on write).

        Returns:
            The copies to make before the new tokens are written.

        Raises:
            PoolFull: there are too few free pages; nothing has changed.
        """
        self._check_open(table)
        needed = self.pages_needed(table, tokens)
        if needed > self.free_pages:
            raise PoolFull(
                f"pages needed: {needed}, pages free: {self.free_pages} of max_pages={self.max_pages}; give more pages"
            )
        copies = []
        tail = self._shared_tail(table, tokens)
        if tail is not None:
            (copy,) = self._allocate(1)
            copies.append(PageCopy(table.pages[tail], copy))
            self._drop_reference(table.pages[tail])
            table.pages[tail] = copy
        elif tokens and table.length < len(table.pages) * self.page_size:
            self._index.discard(table.pages[table.length // self.page_size])  # its contents are about to change
        table.pages += self._allocate(self.pages_for(table.length + tokens) - len(table.pages))
        return copies

    def commit(self, table: BlockTable, token_ids: Sequence[int], *, verified: bool = True) -> None:
        """Record that the keys and values of ``token_ids`` have been written after the first ``length`` tokens.

        Full pages become known prefixes once they are ``verified`` to have no NaN. Pages committed without it become
        known with the next verified commit, which may have no tokens.
        """
        self._check_open(table)
        assert table.length + len(token_ids) <= len(table.pages) * self.page_size, "commit of more than was reserved"
        assert not len(token_ids) or self._is_writable(table.pages[table.length // self.page_size]), (
            "commit without reserve"
        )
        table.length += len(token_ids)
        if not (self.prefix_caching and table.chained):
            return
        table.pending_ids += token_ids
        if not verified:
            return
        full = len(table.pending_ids) // self.page_size * self.page_size
        for first in range(0, full, self.page_size):
            page_ids = table.pending_ids[first : first + self.page_size]
            key = page_key(table.keys[-1] if table.keys else table.root, page_ids)
            index = len(table.keys) - table.released // self.page_size
            if index >= 0:
                self._index.add(key, table.pages[index])
            table.keys.append(key)
        del table.pending_ids[:full]

    def fork(self, table: BlockTable) -> BlockTable:
        """Open another table with the same tokens. Filled pages are shared until one of the two writes to them."""
        self._check_open(table)
        shared = table.pages[: self.pages_for(table.length)]
        forked = BlockTable(table.root, shared, table.length, table.released)
        forked.keys, forked.pending_ids, forked.chained = list(table.keys), list(table.pending_ids), table.chained
        self._add_reference(shared)
        self._tables[id(forked)] = forked
        return forked

    def truncate(self, table: BlockTable, length: int) -> None:
        """Keep the first ``length`` tokens of the table's pages and release the pages after theirs."""
        self._check_open(table)
        assert 0 <= length <= table.length, f"truncate to {length} of {table.length} tokens"
        kept = self.pages_for(length)
        for page in reversed(table.pages[kept:]):
            self._drop_reference(page)
        del table.pages[kept:]
        if length < table.length:
            self._cut_chain(table, table.released + length)
        table.length = length

    def drop(self, table: BlockTable, first: int, count: int) -> None:
        """Release ``count`` full pages, beginning with the one at index ``first``.

        The pages after them are never known prefixes again: their keys and values depend on the dropped tokens.
        """
        self._check_open(table)
        assert 0 <= first <= first + count <= table.length // self.page_size, "drop of a page that is not full"
        if count == 0:
            return
        for page in reversed(table.pages[first : first + count]):
            self._drop_reference(page)
        del table.pages[first : first + count]
        table.length -= count * self.page_size
        table.chained, table.pending_ids = False, []
        del table.keys[table.released // self.page_size + first :]

    def release_unseen(self, table: BlockTable) -> None:
        """Release the first pages, those that no later token attends to."""
        self._check_open(table)
        count = unseen_tokens(table.length, self.window) // self.page_size
        for page in table.pages[:count]:
            self._drop_reference(page)
        del table.pages[:count]
        table.length -= count * self.page_size
        table.released += count * self.page_size

    def release(self, table: BlockTable) -> None:
        """Close the table. Its known pages become idle, in such an order that its last page is evicted first."""
        self._check_open(table)
        del self._tables[id(table)]
        for page in reversed(table.pages):
            self._drop_reference(page)

    def clear_cache(self) -> None:
        """Forget all known prefixes, for example after the weights have changed."""
        self._free.extend(self._index.idle)
        self._index = PrefixIndex()
        for table in self._tables.values():
            table.chained, table.pending_ids = False, []

    def check_integrity(self) -> None:
        """Raise AssertionError with the first invariant that is violated."""
        free, idle = set(self._free), set(self._index.idle)
        used = Counter(page for table in self._tables.values() for page in table.pages)
        assert len(free) == len(self._free), "a page is free twice"
        assert len(free | idle | used.keys()) == self.max_pages, "a page is lost"
        assert len(free) + len(idle) + len(used) == self.max_pages, "a page has two of the states free, idle and used"
        assert all(used[page] == count for page, count in enumerate(self._reference_counts)), (
            "a reference count is wrong"
        )
        known = self._index.keys
        assert {key: page for page, key in known.items()} == self._index.pages, "the two sides of the index differ"
        assert idle == known.keys() - used.keys(), "idle pages are not the known pages that no table uses"
        for table in self._tables.values():
            self._check_table(table)

    def _check_table(self, table: BlockTable) -> None:
        assert len(set(table.pages)) == len(table.pages), "a table uses a page twice"
        assert 0 <= table.length <= len(table.pages) * self.page_size, "a table's tokens exceed its pages"
        if self.prefix_caching and table.chained:
            chained = len(table.keys) * self.page_size + len(table.pending_ids)
            assert chained == table.tokens, "a table's hash chain does not cover its tokens"

    def _check_open(self, table: BlockTable) -> None:
        assert self._tables.get(id(table)) is table, "the table is closed or belongs to another pool"

    def _known_prefix(self, token_ids: Sequence[int], root: bytes) -> KnownPrefix:
        return self._index.find(root, token_ids[: max(0, len(token_ids) - 1)], self.page_size, self.window)

    def _is_writable(self, page: int) -> bool:
        """Whether a write to ``page`` affects a single table and no known prefix."""
        return self._reference_counts[page] == 1 and page not in self._index.keys

    def _shared_tail(self, table: BlockTable, tokens: int) -> int | None:
        """The index of the partly filled page that the next token goes to, if another table uses it too."""
        index, filled = divmod(table.length, self.page_size)
        return index if tokens and filled and self._reference_counts[table.pages[index]] > 1 else None

    def _cut_chain(self, table: BlockTable, length: int) -> None:
        """Shorten the hash chain to ``length`` tokens.

        The tokens of a page cannot be recovered from its key, so a cut within a page that has a key breaks the chain.
        """
        full, rest = divmod(length, self.page_size)
        if len(table.keys) > full or not table.chained:
            table.chained = table.chained and rest == 0
            table.pending_ids = []
        else:
            del table.pending_ids[length - len(table.keys) * self.page_size :]
        del table.keys[full:]

    def _add_reference(self, pages: Sequence[int]) -> None:
        for page in pages:
            self._index.idle.pop(page, None)
            self._reference_counts[page] += 1

    def _drop_reference(self, page: int) -> None:
        self._reference_counts[page] -= 1
        if self._reference_counts[page]:
            return
        if page in self._index.keys:
            self._index.idle[page] = None
        else:
            self._free.append(page)

    def _allocate(self, count: int) -> list[int]:
        pages = []
        for _ in range(count):
            page = self._free.popleft() if self._free else next(iter(self._index.idle))
            self._index.discard(page)
            self._reference_counts[page] = 1
            pages.append(page)
        return pages
