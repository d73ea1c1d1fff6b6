"""Prompts: excerpts of stories with an exact number of tokens, all different."""

import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

from slm_bench.errors import BenchError
from slm_bench.kv.engine.workload import endless_texts

TRIES = 100  # excerpts per prompt


class Prompts:
    """Endless prompts, the same in each run. They start in the middle of a story, so no prefix cache helps."""

    def __init__(self, tokenizer: Any, tokens: int) -> None:
        self._tokenizer, self._tokens = tokenizer, tokens
        self._special = len(self._encode("", special=True))
        self._random = random.Random(0)
        self._texts = endless_texts(lambda text: self._encode(text, special=False))

    def take(self, count: int) -> list[str]:
        """Return the next ``count`` prompts. Raises BenchError if the tokenizer never reproduces an excerpt."""
        return [next(self._matching()) for _ in range(count)]

    def _matching(self) -> Iterator[str]:
        length = self._tokens - self._special
        for ids in islice(self._texts, TRIES):
            first = self._random.randrange(max(len(ids) - length, 1))
            prompt = str(self._tokenizer.decode(ids[first : first + length]))
            # Decoding and encoding again, as the server does, may give another number of tokens.
            if len(self._encode(prompt, special=True)) == self._tokens:
                yield prompt
        raise BenchError(f"of {TRIES} excerpts this tokenizer reads none as {self._tokens} tokens; use another model")

    def _encode(self, text: str, special: bool) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])
