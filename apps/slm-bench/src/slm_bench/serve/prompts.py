"""Prompts: pieces of stories, each of the same number of tokens, none like another."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from slm_bench.engine.workload import texts
from slm_kv import KVError

TRIES = 100


class Prompts:
    """Gives prompts without end, the same in each run. They begin in the middle of a story, so that they have no
    beginning in common that a server could know."""

    def __init__(self, tokenizer: Any, tokens: int) -> None:
        self._tokenizer, self._tokens = tokenizer, tokens
        self._added = len(self._ids("", special=True))
        self._draw = random.Random(0)
        self._texts = texts(lambda text: self._ids(text, special=False))

    def take(self, count: int) -> list[str]:
        """The next ``count``. Raises KVError for a tokenizer that reads no piece of a text as it wrote it."""
        return [next(self._fitting()) for _ in range(count)]

    def _fitting(self) -> Iterator[str]:
        for _ in range(TRIES):
            prompt = self._piece(next(self._texts))
            if len(self._ids(prompt, special=True)) == self._tokens:  # what a server makes of the text
                yield prompt
        raise KVError(f"of {TRIES} pieces of text this tokenizer reads none as {self._tokens} tokens")

    def _piece(self, ids: list[int]) -> str:
        wanted = self._tokens - self._added
        first = self._draw.randrange(max(len(ids) - wanted, 1))
        return str(self._tokenizer.decode(ids[first : first + wanted]))

    def _ids(self, text: str, special: bool) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])
