"""Workloads: requests of fixed lengths for all contenders, with prompts from the stories of the corpus `harbour`."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from slm_data import SAMPLE_TRAIN_SEED, harbour_story

Tokens = list[int]
STORIES = 8  # joined to one text; each has 60 to 200 words, so the text is longer than any prompt


@dataclass(frozen=True)
class Sizes:
    """Number and lengths of requests, in tokens. Ranges include both ends."""

    mixed: int = 32
    mixed_prompt: tuple[int, int] = (8, 128)
    mixed_new: tuple[int, int] = (16, 128)
    batch: int = 8  # requests of equal length, and rows of a padded batch
    prompt: int = 32
    new: int = 128
    attention: tuple[tuple[int, int], ...] = ((1, 160), (8, 160), (32, 160), (8, 600))  # sequences, tokens of each


@dataclass(frozen=True)
class Workload:
    """Prompts, and the exact number of tokens to generate greedily for each."""

    name: str
    prompts: tuple[Tokens, ...]
    new: tuple[int, ...]

    @property
    def useful_tokens(self) -> int:
        """Requested tokens; what a padded batch generates beyond them does not count."""
        return sum(self.new)

    @property
    def description(self) -> str:
        lengths = [len(prompt) for prompt in self.prompts]
        return f"prompts of {_range(lengths)} tokens, {_range(self.new)} new"

    @property
    def longest(self) -> int:
        """Tokens of the longest request, including its prompt."""
        return max(len(prompt) + new for prompt, new in zip(self.prompts, self.new, strict=True))


def mixed_workload(tokenize: Callable[[str], Tokens], sizes: Sizes) -> Workload:
    """Return requests of mixed lengths, the same at each call."""
    generator, source = random.Random(0), endless_texts(tokenize)
    prompts = tuple(next(source)[: generator.randint(*sizes.mixed_prompt)] for _ in range(sizes.mixed))
    return Workload(f"{sizes.mixed} mixed", prompts, tuple(generator.randint(*sizes.mixed_new) for _ in prompts))


def uniform_workload(tokenize: Callable[[str], Tokens], requests: int, sizes: Sizes) -> Workload:
    """Return requests of equal length, which need no padding."""
    source = endless_texts(tokenize)
    name = "alone" if requests == 1 else f"batch of {requests}"
    return Workload(name, tuple(next(source)[: sizes.prompt] for _ in range(requests)), (sizes.new,) * requests)


def endless_texts(tokenize: Callable[[str], Tokens]) -> Iterator[Tokens]:
    """Yield tokenized texts without end, each longer than any prompt here and different from all others."""
    for first in count(step=STORIES):
        yield tokenize(" ".join(harbour_story(SAMPLE_TRAIN_SEED, first + index) for index in range(STORIES)))


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"
