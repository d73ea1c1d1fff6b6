"""Finding stop strings in a stream of text, and holding back text that may begin one."""

from __future__ import annotations

from collections.abc import Sequence


class StopStringFilter:
    """Passes text on up to the first stop string.

    If several stop strings occur, the text ends before the one that is complete first. Text that may be the beginning
    of a stop string is held back until it turns out not to be one.

    Attributes:
        stopped: Whether a stop string was found.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held_back = ""
        self.stopped = False

    def push(self, text: str, *, may_stop: bool = True) -> str:
        """Add ``text`` and return the part that certainly comes before any stop string.

        Without ``may_stop`` stop strings are ignored, and nothing is held back.
        """
        stop = self._stop if may_stop else ()
        pending = self._held_back + text
        # (end, start) of each stop string's first occurrence: min() is the one that is complete first.
        occurrences = [(start + len(string), start) for string in stop if (start := pending.find(string)) >= 0]
        if occurrences:
            self.stopped = True
            self._held_back = ""
            return pending[: min(occurrences)[1]]
        certain = len(pending) - max((_overlap(pending, string) for string in stop), default=0)
        self._held_back = pending[certain:]
        return pending[:certain]

    def flush(self) -> str:
        """Return the text that is held back. Called at the end of the text."""
        held_back, self._held_back = self._held_back, ""
        return held_back


def _overlap(text: str, stop: str) -> int:
    """The length of the longest suffix of ``text`` that is a proper prefix of ``stop``."""
    start = text.find(stop[0], max(len(text) - len(stop) + 1, 0))
    while start >= 0 and not stop.startswith(text[start:]):
        start = text.find(stop[0], start + 1)
    return len(text) - start if start >= 0 else 0
