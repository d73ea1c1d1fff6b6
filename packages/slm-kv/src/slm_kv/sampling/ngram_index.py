"""Where the n-grams of a growing text occurred last."""

from __future__ import annotations

from collections.abc import Sequence

NGRAM_SIZES = (4, 3, 2)  # tokens that must match, the longest first


class NgramIndex:
    """Finds the last earlier occurrence of the n-gram at the end of a growing text. A token is added in constant time.

    Args:
        token_ids: The text, to which its owner appends tokens.
    """

    def __init__(self, token_ids: Sequence[int]) -> None:
        self._token_ids, self._indexed = token_ids, 1
        # By the hash of an n-gram, which is smaller; two of one hash give a draft that is not accepted.
        self._next: dict[int, int] = {}

    def find(self) -> tuple[int, int]:
        """The size of the longest n-gram at the end of the text that occurred before, and the index after it there.

        The most recent occurrence counts. The size is 0 if there is none.
        """
        self._update()
        ids, end = self._token_ids, len(self._token_ids)
        for size in NGRAM_SIZES:
            start = self._next.get(hash(tuple(ids[end - size :]))) if size <= end else None
            if start is not None:
                return size, start
        return 0, end

    def continuation(self, start: int, length: int) -> tuple[int, ...]:
        """The ``length`` tokens from index ``start``; the text is continued periodically at its end."""
        period = len(self._token_ids) - start
        return tuple(self._token_ids[start + index % period] for index in range(length))

    def _update(self) -> None:
        """Index the n-grams before all tokens that were added."""
        ids = self._token_ids
        for end in range(self._indexed, len(ids)):
            for size in NGRAM_SIZES:
                if size <= end:
                    self._next[hash(tuple(ids[end - size : end]))] = end
        self._indexed = max(self._indexed, len(ids))
