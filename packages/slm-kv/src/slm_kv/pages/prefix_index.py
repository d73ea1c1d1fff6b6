"""Index of known prefixes: finds pages by their tokens, the tokens before them, and the weights that computed them."""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence


def page_key(parent: bytes, token_ids: Sequence[int]) -> bytes:
    """The key of a full page: a digest of its tokens and of the previous page's key (for the first page: the root)."""
    return hashlib.blake2b(parent + array("q", token_ids).tobytes(), digest_size=16).digest()


class PrefixIndex:
    """Known pages by key and keys by page, and the idle pages in order of their last use, oldest first."""

    def __init__(self) -> None:
        self.pages: dict[bytes, int] = {}
        self.keys: dict[int, bytes] = {}
        self.idle: OrderedDict[int, None] = OrderedDict()

    def add(self, key: bytes, page: int) -> None:
        """Add ``page``, unless another page with the same contents is known."""
        if key not in self.pages and page not in self.keys:
            self.pages[key], self.keys[page] = page, key

    def discard(self, page: int) -> None:
        """Remove ``page``, if it is known."""
        self.idle.pop(page, None)
        if (key := self.keys.pop(page, None)) is not None:
            del self.pages[key]

    def find(self, root: bytes, token_ids: Sequence[int], page_size: int) -> list[int]:
        """The known pages of the longest prefix of ``token_ids``."""
        pages: list[int] = []
        key = root
        for first in range(0, len(token_ids) - page_size + 1, page_size):
            key = page_key(key, token_ids[first : first + page_size])
            if (page := self.pages.get(key)) is None:
                break
            pages.append(page)
        return pages
