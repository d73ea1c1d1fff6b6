"""Index of known prefixes: finds pages by their tokens, the tokens before them, and the weights that computed them."""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass


def page_key(parent: bytes, token_ids: Sequence[int]) -> bytes:
    """The key of a full page: a digest of its tokens and of the previous page's key (for the first page: the root)."""
    return hashlib.blake2b(parent + array("q", token_ids).tobytes(), digest_size=16).digest()


def unseen_tokens(length: int, window: int | None) -> int:
    """The number of first tokens that no token after ``length`` tokens attends to."""
    return 0 if window is None else max(0, length + 1 - window)


@dataclass(frozen=True)
class KnownPrefix:
    """The keys of a prefix's pages, and the last of these pages, those that later tokens attend to."""

    keys: list[bytes]
    pages: list[int]


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

    def find(self, root: bytes, token_ids: Sequence[int], page_size: int, window: int | None) -> KnownPrefix:
        """The longest prefix of ``token_ids`` of which all pages are known that the tokens after it attend to.

        With a ``window`` these are its last pages only.
        """
        keys: list[bytes] = []
        count, run = 0, 0  # pages of the prefix; known pages before this one without a gap
        for first in range(0, len(token_ids) - page_size + 1, page_size):
            keys.append(page_key(keys[-1] if keys else root, token_ids[first : first + page_size]))
            run = run + 1 if keys[-1] in self.pages else 0
            if run >= len(keys) - unseen_tokens(first + page_size, window) // page_size:
                count = len(keys)
            elif window is None:
                break
        unseen = unseen_tokens(count * page_size, window) // page_size
        return KnownPrefix(keys[:count], [self.pages[key] for key in keys[unseen:count]])
