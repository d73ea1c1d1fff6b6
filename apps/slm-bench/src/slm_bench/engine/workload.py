"""The requests that all ways answer: beginnings of real sentences, cut to lengths drawn once."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from slm_data import SAMPLE_TRAIN_SEED as TRAIN_SEED
from slm_data import sample_story as story

Tokens = list[int]
STORIES = 8  # of 60 to 200 words, for a text


@dataclass(frozen=True)
class Sizes:
    """How much a run asks for. Of a pair, both ends are included."""

    mixed: int = 32
    mixed_prompt: tuple[int, int] = (8, 128)
    mixed_new: tuple[int, int] = (16, 128)
    batch: int = 8  # requests alike, and rows of a padded batch
    prompt: int = 32
    new: int = 128
    attention: tuple[tuple[int, int], ...] = ((1, 160), (8, 160), (32, 160), (8, 600))  # sequences, tokens of each


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


def mixed(tokenize: Callable[[str], Tokens], sizes: Sizes) -> Workload:
    """Requests of mixed lengths, the same at each call."""
    draw, source = random.Random(0), texts(tokenize)
    prompts = tuple(_cut(source, draw.randint(*sizes.mixed_prompt)) for _ in range(sizes.mixed))
    return Workload(f"{sizes.mixed} mixed", prompts, tuple(draw.randint(*sizes.mixed_new) for _ in prompts))


def alike(tokenize: Callable[[str], Tokens], requests: int, sizes: Sizes) -> Workload:
    """Requests of one length each: nothing to pad."""
    source = texts(tokenize)
    name = "alone" if requests == 1 else f"batch of {requests}"
    return Workload(name, tuple(_cut(source, sizes.prompt) for _ in range(requests)), (sizes.new,) * requests)


def texts(tokenize: Callable[[str], Tokens]) -> Iterator[Tokens]:
    """Texts without end, each longer than any prompt here: stories made by the sample's grammar."""
    for first in count(step=STORIES):
        yield tokenize(" ".join(story(TRAIN_SEED, first + index) for index in range(STORIES)))


def _cut(source: Iterator[Tokens], length: int) -> Tokens:
    return next(source)[:length]


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"
