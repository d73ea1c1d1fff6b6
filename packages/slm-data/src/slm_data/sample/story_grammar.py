"""Generating the stories of a built-in corpus: plots as text files, a cast, and a seed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from random import Random
from typing import NamedTuple

from slm_data.sample.grammar import Plot, make_plot, read_outline
from slm_data.sample.slots import Draw, Slots, pick

_INDEX_BITS = 64


class Tale(NamedTuple):
    """A story, and the plot and slots it was generated from."""

    plot: str
    slots: Slots
    text: str


@dataclass(frozen=True)
class StoryGrammar:
    """A corpus of any number of stories; each is a pure function of a seed and an index.

    Attributes:
        version: Increased whenever a story changes.
        package: The package whose folder `plots` contains the plots, and the macros that they share in `shared.txt`.
        plot_names: The plots. The order is part of the corpus: the plot of a story is drawn by position.
        cast: Draws the slots of one story.
        features: Optional motifs besides the plot, of which a story has one.
        max_words: Longer texts are discarded and generated again.
        train_stories: The number of stories to train on by default.
        validation_stories: The number of validation stories by default.
    """

    version: str
    package: str
    plot_names: tuple[str, ...]
    cast: Callable[[Draw], Slots]
    features: tuple[str, ...]
    max_words: int
    train_stories: int
    validation_stories: int

    def story(self, seed: int, index: int) -> str:
        """Return the text of story number `index` of a seed. Raises ValueError as `tell` does."""
        return self.tell(seed, index).text

    def stories(self, count: int, seed: int) -> Iterator[str]:
        """Yield the first `count` stories of a seed."""
        return (self.story(seed, index) for index in range(count))

    def tell(self, seed: int, index: int) -> Tale:
        """Return story number `index` of a seed as a Tale.

        Raises:
            ValueError: `seed` or `index` is below 0, or `index` is not below 2**64.
        """
        if seed < 0 or not 0 <= index < 1 << _INDEX_BITS:
            raise ValueError(
                f"A story needs a seed and an index from 0 (the index below 2**64), not {seed} and {index}."
            )
        draw = Random(seed << _INDEX_BITS | index).random
        slots = self.cast(draw)
        feature = pick(draw, self.features)
        plot = pick(draw, self.plots)
        text = plot.tell(draw, feature).format_map(slots)
        while text.count(" ") >= self.max_words:
            text = plot.tell(draw, feature).format_map(slots)
        return Tale(plot.name, slots, text)

    @cached_property
    def plots(self) -> tuple[Plot, ...]:
        """The plots in the order of `plot_names`, parsed from their files."""
        (shared,) = read_outline(self._text("shared")).frames
        return tuple(make_plot(name, self._text(name), shared) for name in self.plot_names)

    def _text(self, name: str) -> str:
        return files(self.package).joinpath("plots", f"{name}.txt").read_text(encoding="utf-8")
