"""The built-in corpus: short stories of harbour towns, made from a seed, any number of them."""

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from random import Random
from typing import NamedTuple

from slm_data.sample.cast import Slots, cast, pick
from slm_data.sample.grammar import Plot, make_plot, read_outline

CORPUS_VERSION = "1"  # raise it whenever a story changes

TRAIN_STORIES = 4000
VALIDATION_STORIES = 400
TRAIN_SEED = 1
VALIDATION_SEED = 2

# The order is part of the corpus: a story draws its plot by position.
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
MAX_WORDS = 200  # a telling that runs longer is told anew
FEATURES = ("pet", "coat", "gull", "")  # what a story has besides its plot
_INDEX_BITS = 64


class Tale(NamedTuple):
    """A story and what it was made from."""

    plot: str
    slots: Slots
    text: str


def story(seed: int, index: int) -> str:
    """Story number `index` of the corpus that `seed` makes: one paragraph of 60 to 200 words.

    It depends on nothing but the two numbers. Both must be 0 or more, and `index` under 2**64.
    """
    return tell(seed, index).text


def stories(count: int, seed: int) -> Iterator[str]:
    """The first `count` stories of a seed."""
    return (story(seed, index) for index in range(count))


def tell(seed: int, index: int) -> Tale:
    """Like `story`, with the plot and the cast."""
    if seed < 0 or not 0 <= index < 1 << _INDEX_BITS:
        raise ValueError(f"A story needs a seed and an index of 0 or more, not {seed} and {index}.")
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
    (shared,) = read_outline(_text("shared")).frames
    return tuple(make_plot(name, _text(name), shared) for name in PLOTS)


def _text(name: str) -> str:
    return files("slm_data.sample").joinpath("plots", f"{name}.txt").read_text(encoding="utf-8")
