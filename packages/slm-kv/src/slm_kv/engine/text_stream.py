"""Decoding tokens to text as they arrive, in whole characters and up to a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from slm_kv.sampling.stop_strings import StopStringFilter

PROMPT_TOKENS = 6  # last tokens of the prompt that are decoded with the text, so that its leading space is kept
WINDOW = 16  # tokens that are decoded together before the oldest ones are dropped
REPLACEMENT = "\ufffd"  # the character to which tokenizers decode a part of a character
MAX_CHARACTER_BYTES = 4  # in UTF-8, and so the largest number of tokens that a character can take


class TextStream:
    """Decodes one sequence: ``push`` tokens, get text.

    Tokens cannot be decoded one by one: a character may take several, and some tokenizers drop a space at the start of
    the text that they decode. So a window of the last tokens is decoded each time, and only its new text is returned.

    Attributes:
        text: The text so far.
        stopped: Whether a stop string was found; ``text`` ends before it.

    Args:
        tokenizer: None gives no text.
        stop: Stop strings.
        prompt_ids: The prompt, which the text continues.
        visible_ids: Special tokens that the text shows; it leaves out the others.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        stop: Sequence[str] = (),
        prompt_ids: Sequence[int] = (),
        visible_ids: Sequence[int] = (),
    ) -> None:
        self._tokenizer, self._shows_special = tokenizer, bool(visible_ids)
        special_ids = frozenset(tokenizer.all_special_ids) if tokenizer else frozenset[int]()
        self._special_ids = special_ids.difference(visible_ids)
        self._window = [token for token in prompt_ids[-PROMPT_TOKENS:] if token not in self._special_ids]
        self._boundaries = (0, 0)  # where in the window the last two pieces of whole characters began
        self._unfinished_tokens = 0  # tokens since the last whole character
        self._window_limit = WINDOW
        self._emitted = self._decode(self._window)  # the part of the window's text that was returned, or is prompt
        self._stop_filter = StopStringFilter(stop)
        self.text = ""

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found."""
        return self._stop_filter.stopped

    def push(self, token_id: int, *, may_stop: bool = True) -> str:
        """Add a token and return the text that has become certain.

        Without ``may_stop`` stop strings are ignored.
        """
        if self._tokenizer is None or self.stopped or token_id in self._special_ids:
            return ""
        self._window.append(token_id)
        self._unfinished_tokens += 1
        decoded = self._decode(self._window)
        certain = self._certain(decoded)
        new_text = self._take_new(certain)
        if certain == decoded:
            self._unfinished_tokens = 0
        if new_text and len(self._window) > self._window_limit:
            self._shorten_window(decoded)
        if self._unfinished_tokens == 0 and new_text:
            self._boundaries = (self._boundaries[1], len(self._window))
        return self._emit(self._stop_filter.push(new_text, may_stop=may_stop))

    def finish(self) -> str:
        """Return the text that was held back. Called after the last token."""
        if self._tokenizer is None or self.stopped:
            return ""
        new_text = self._stop_filter.push(self._take_new(self._decode(self._window)))
        return self._emit(new_text + self._stop_filter.flush())

    def _emit(self, text: str) -> str:
        self.text += text
        return text

    def _decode(self, window: list[int]) -> str:
        if self._tokenizer is None:
            return ""
        return str(self._tokenizer.decode(window, skip_special_tokens=not self._shows_special))

    def _certain(self, decoded: str) -> str:
        """The text that no further token changes."""
        if self._unfinished_tokens > MAX_CHARACTER_BYTES:  # these bytes are not valid UTF-8
            return decoded.removesuffix(REPLACEMENT)
        return decoded.rstrip(REPLACEMENT)

    def _take_new(self, certain: str) -> str:
        new_text = certain[_common_length(self._emitted, certain) :]
        if new_text:
            self._emitted = certain
        return new_text

    def _shorten_window(self, decoded: str) -> None:
        """Drop the oldest tokens from the window if the text of the next tokens does not depend on them.

        They are dropped if the remaining tokens, decoded alone, give the same text as before. That fails if the cut
        splits a character or a space at the cut is lost; then it is tried again when the window is twice as long.
        """
        if self._unfinished_tokens == 0:
            start = self._boundaries[0]
        elif len(self._window) > 4 * WINDOW:  # a long run of bytes that are not valid UTF-8
            start = len(self._window) - 2 * MAX_CHARACTER_BYTES
        else:
            return
        remaining = self._window[start:]
        remaining_text = self._decode(remaining)
        dropped = len(decoded) - len(remaining_text)
        if remaining_text and decoded.endswith(remaining_text) and dropped <= len(self._emitted):
            self._emitted = self._emitted[dropped:]
            self._window, self._window_limit = remaining, WINDOW
            self._boundaries = (0, max(self._boundaries[1] - start, 0))
        else:
            self._window_limit = 2 * len(self._window)


def _common_length(emitted: str, text: str) -> int:
    """The length of the common prefix. They may differ where ``emitted`` ends in half a character, now complete."""
    if text.startswith(emitted):
        return len(emitted)
    pairs = enumerate(zip(emitted, text, strict=False))
    return next((index for index, (old, new) in pairs if old != new), min(len(emitted), len(text)))
