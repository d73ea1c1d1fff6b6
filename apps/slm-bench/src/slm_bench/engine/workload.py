"""The requests that all ways answer: beginnings of real sentences, cut to lengths drawn once."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from slm_data.sample.corpus import TRAIN_SEED, story

Tokens = list[int]
STORIES = 8  # of 60 to 200 words, for a text


@dataclass(frozen=True)
class Workload:
    """Prompts, and how many tokens each is continued by, greedily, neither more nor fewer."""

    name: str
    prompts: tuple[Tokens, ...]
    new: tuple[int, ...]

    @property
    def useful_tokens(self) -> int:
        """Tokens that were asked for: what a padded batch adds to its shorter rows is not among them."""
        return sum(self.new)

    @property
    def description(self) -> str:
        """How long prompts and answers are."""
        lengths = [len(prompt) for prompt in self.prompts]
        return f"prompts of {_range(lengths)} tokens, {_range(self.new)} new"

    @property
    def longest(self) -> int:
        """Tokens of the longest request, its prompt included."""
        return max(len(prompt) + new for prompt, new in zip(self.prompts, self.new, strict=True))


def mixed(tokenize: Callable[[str], Tokens], requests: int = 32) -> Workload:
    """Prompts of 8 to 128 tokens, continued by 16 to 128."""
    draw, source = random.Random(0), texts(tokenize)
    prompts = tuple(_cut(source, draw.randint(8, 128)) for _ in range(requests))
    return Workload(f"{requests} mixed", prompts, tuple(draw.randint(16, 128) for _ in range(requests)))


def alike(tokenize: Callable[[str], Tokens], requests: int, prompt: int = 32, new: int = 128) -> Workload:
    """Requests of one length each: nothing to pad."""
    source = texts(tokenize)
    name = "alone" if requests == 1 else f"batch of {requests}"
    return Workload(name, tuple(_cut(source, prompt) for _ in range(requests)), (new,) * requests)


def texts(tokenize: Callable[[str], Tokens]) -> Iterator[Tokens]:
    """Texts without end, each longer than any prompt here: stories made by the sample's grammar."""
    for first in count(step=STORIES):
        yield tokenize(" ".join(story(TRAIN_SEED, first + index) for index in range(STORIES)))


def _cut(source: Iterator[Tokens], length: int) -> Tokens:
    return next(source)[:length]


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"
