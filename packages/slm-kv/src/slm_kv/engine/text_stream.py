"""Text of tokens as they come: no half character, and nothing that might begin a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

CONTEXT = 6  # tokens of the prompt that the first piece is decoded after: some tokenizers drop a leading space
WINDOW = 16  # tokens that are decoded at once before the older ones are left out
UNFINISHED = "\ufffd"  # what decoding gives for a part of a character
CHARACTER = 4  # bytes at most, and so tokens


class TextStream:
    """``push`` tokens, get text. ``stopped`` once a stop string came up; the text ends before it.

    Of several stop strings the one that is complete first counts. Without a tokenizer there is no text.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase | None, stop: Sequence[str] = (), prompt_ids: Sequence[int] = ()
    ) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._special = frozenset(tokenizer.all_special_ids) if tokenizer else frozenset()
        self._window = [token for token in prompt_ids[-CONTEXT:] if token not in self._special]
        self._boundaries = (0, 0)  # where in the window the last two pieces of whole characters began
        self._pending = 0  # tokens since a character last ended
        self._limit = WINDOW
        self._known = self._decode(self._window)  # of the window's text, what is the prompt's or was passed on
        self._held = ""  # passed on, but it may begin a stop string
        self.text = ""
        self.stopped = False

    def push(self, token_id: int, *, may_stop: bool = True) -> str:
        """The text that is certain with this token; without ``may_stop`` no stop string is looked for in it."""
        if self._tokenizer is None or self.stopped or token_id in self._special:
            return ""
        self._window.append(token_id)
        self._pending += 1
        decoded = self._decode(self._window)
        certain = self._certain(decoded)
        fresh = self._fresh(certain)
        if certain == decoded:
            self._pending = 0
        if fresh and len(self._window) > self._limit:
            self._shorten(decoded)
        if self._pending == 0 and fresh:
            self._boundaries = (self._boundaries[1], len(self._window))
        return self._give(fresh, self._stop if may_stop else ())

    def finish(self) -> str:
        """What was held back; no more tokens come."""
        if self._tokenizer is None or self.stopped:
            return ""
        given = self._give(self._fresh(self._decode(self._window)), self._stop)
        rest, self._held = self._held, ""
        self.text += rest
        return given + rest

    def _decode(self, window: list[int]) -> str:
        return str(self._tokenizer.decode(window, skip_special_tokens=True)) if self._tokenizer else ""

    def _certain(self, decoded: str) -> str:
        """The text that no further token changes. What stays unfinished for longer than a character is not one."""
        if self._pending > CHARACTER:
            return decoded.removesuffix(UNFINISHED)
        return decoded.rstrip(UNFINISHED)

    def _fresh(self, certain: str) -> str:
        fresh = certain[_shared(self._known, certain) :]
        if fresh:
            self._known = certain
        return fresh

    def _shorten(self, decoded: str) -> None:
        """Leave out of the window what the next tokens' text does not depend on.

        That is so where the rest has its text by itself, which half a character or a dropped space does not.
        """
        if self._pending == 0:
            start = self._boundaries[0]
        elif len(self._window) > 4 * WINDOW:  # bytes that make no characters
            start = len(self._window) - 2 * CHARACTER
        else:
            return
        rest = self._window[start:]
        text, before = self._decode(rest), len(decoded)
        if text and decoded.endswith(text) and before - len(text) <= len(self._known):
            self._known = self._known[before - len(text) :]
            self._window, self._limit = rest, WINDOW
            self._boundaries = (0, max(self._boundaries[1] - start, 0))
        else:
            self._limit = 2 * len(self._window)

    def _give(self, fresh: str, stops: tuple[str, ...]) -> str:
        self._held += fresh
        ends = [(at + len(stop), at) for stop in stops if (at := self._held.find(stop)) >= 0]
        if ends:
            self.stopped = True
            certain, kept = min(ends)[1], ""
        else:
            certain = len(self._held) - max((_beginning(self._held, stop) for stop in stops), default=0)
            kept = self._held[certain:]
        given, self._held = self._held[:certain], kept
        self.text += given
        return given


def _beginning(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that begins ``stop`` and is not all of it."""
    at = text.find(stop[0], max(len(text) - len(stop) + 1, 0))
    while at >= 0 and not stop.startswith(text[at:]):
        at = text.find(stop[0], at + 1)
    return len(text) - at if at >= 0 else 0


def _shared(known: str, text: str) -> int:
    """Length of what both begin with: a half character at the end of ``known`` may be whole in ``text``."""
    if text.startswith(known):
        return len(known)
    pairs = zip(known, text, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(known), len(text)))
