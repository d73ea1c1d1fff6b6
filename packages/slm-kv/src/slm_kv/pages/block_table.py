"""Block tables: the pages that hold one sequence's keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class BlockTable:
    """One sequence's pages, in order, of which the first ``length`` slots are filled. Created by a PagePool.

    ``released`` tokens before them were in pages that no layer reads any more.
    """

    def __init__(self, root: bytes, pages: Sequence[int] = (), length: int = 0, released: int = 0) -> None:
        self.root = root
        self.pages = list(pages)
        self.length = length
        self.released = released
        # Hash chain of all tokens, also the released ones. ``keys`` are those of the full pages whose contents are
        # verified; ``pending_ids`` are the tokens after them. If the chain is broken (``chained`` is False), later
        # pages get no keys.
        self.keys: list[bytes] = []
        self.pending_ids: list[int] = []
        self.chained = True

    @property
    def tokens(self) -> int:
        """The number of tokens so far, also those that are no longer in pages."""
        return self.released + self.length


@dataclass(frozen=True)
class PageCopy:
    """A copy that must be made before page ``target`` is written to (copy on write)."""

    source: int
    target: int
