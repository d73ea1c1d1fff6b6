"""Known prefixes: which page holds the keys and values of which tokens, after which tokens, under which weights."""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence


def page_key(parent: bytes, token_ids: Sequence[int]) -> bytes:
    """The key of a full page: a digest of its tokens and of the key of the page before (of the first: the root)."""
    return hashlib.blake2b(parent + array("q", token_ids).tobytes(), digest_size=16).digest()


class PrefixIndex:
    """Pages by key, both ways, and those that no table holds by their last use, the longest ago first."""

    def __init__(self) -> None:
        self.pages: dict[bytes, int] = {}
        self.keys: dict[int, bytes] = {}
        self.idle: OrderedDict[int, None] = OrderedDict()

    def add(self, key: bytes, page: int) -> None:
        """Make ``page`` known, unless another page already holds the same."""
        if key not in self.pages and page not in self.keys:
            self.pages[key], self.keys[page] = page, key

    def forget(self, page: int) -> None:
        """Make ``page`` unknown; nothing where it is not known."""
        self.idle.pop(page, None)
        if (key := self.keys.pop(page, None)) is not None:
            del self.pages[key]

    def find(self, root: bytes, token_ids: Sequence[int], page_size: int) -> list[int]:
        """The longest run of known pages that ``token_ids`` begin with."""
        found: list[int] = []
        key = root
        for first in range(0, len(token_ids) - page_size + 1, page_size):
            key = page_key(key, token_ids[first : first + page_size])
            if (page := self.pages.get(key)) is None:
                break
            found.append(page)
        return found
