"""The built-in corpus: short stories set in harbour towns, any number of them, generated from a seed."""

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from random import Random
from typing import NamedTuple

from slm_data.sample.characters import Slots, cast, pick
from slm_data.sample.grammar import Plot, make_plot, read_outline

CORPUS_VERSION = "1"  # increase it whenever a story changes

TRAIN_STORIES = 4000
VALIDATION_STORIES = 400
SAMPLE_TRAIN_SEED = 1
SAMPLE_VALIDATION_SEED = 2

# The order is part of the corpus: the plot of a story is drawn by position.
PLOTS = (
    "lost",
    "quarrel",
    "skill",
    "stranger",
    "rule",
    "gift",
    "fear",
    "sharing",
    "promise",
    "storm",
    "invention",
    "mystery",
    "race",
    "truth",
    "barter",
    "signal",
    "tide",
)
MAX_WORDS = 200  # longer texts are discarded and generated again
FEATURES = ("pet", "coat", "gull", "")  # an optional motif besides the plot
_INDEX_BITS = 64


class Tale(NamedTuple):
    """A story, and the plot and slots it was generated from."""

    plot: str
    slots: Slots
    text: str


def sample_story(seed: int, index: int) -> str:
    """Return story number `index` of the corpus of `seed`: one paragraph of 60 to 200 words.

    It is a pure function of the two numbers. Raises ValueError unless both are at least 0 and `index` is below 2**64.
    """
    return tell(seed, index).text


def sample_stories(count: int, seed: int) -> Iterator[str]:
    """Yield the first `count` stories of a seed."""
    return (sample_story(seed, index) for index in range(count))


def tell(seed: int, index: int) -> Tale:
    """Return story number `index` of the corpus of `seed` as a Tale. Raises ValueError as `sample_story` does."""
    if seed < 0 or not 0 <= index < 1 << _INDEX_BITS:
        raise ValueError(f"A story needs a seed and an index from 0 (the index below 2**64), not {seed} and {index}.")
    draw = Random(seed << _INDEX_BITS | index).random
    slots = cast(draw)
    feature = pick(draw, FEATURES)
    plot = pick(draw, plots())
    text = plot.tell(draw, feature).format_map(slots)
    while text.count(" ") >= MAX_WORDS:
        text = plot.tell(draw, feature).format_map(slots)
    return Tale(plot.name, slots, text)


@cache
def plots() -> tuple[Plot, ...]:
    """Return the plots in the order of `PLOTS`, parsed from the files in plots/."""
    (shared,) = read_outline(_text("shared")).frames
    return tuple(make_plot(name, _text(name), shared) for name in PLOTS)


def _text(name: str) -> str:
    return files("slm_data.sample").joinpath("plots", f"{name}.txt").read_text(encoding="utf-8")
