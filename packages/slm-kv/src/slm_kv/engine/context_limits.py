"""How long a sequence can get, and what becomes of one that gets there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from slm_kv.errors import KVError
from slm_kv.pages.pool import PagePool
from slm_kv.engine.sequence import Sequence

OnFull = Literal["refuse", "stop", "window", "error"]


@dataclass(frozen=True)
class Room:
    """``slots`` tokens fit into the pages, and ``positions`` are what the model knows."""

    page_size: int
    max_pages: int
    positions: int
    rotary: bool
    on_full: OnFull

    @classmethod
    def of(cls, config: Any, page_size: int, max_pages: int, window: int | None, on_full: OnFull) -> Room:
        """The room that a pool gives a model. A layer that slides a window of its own ends the positions there.

        Raises KVError for a page larger than the model's context, and for an ``on_full`` that is none.
        """
        if on_full not in get_args(OnFull):
            raise KVError(f"on_full={on_full!r} is none of {', '.join(get_args(OnFull))}")
        positions = min(config.max_position_embeddings, window or config.max_position_embeddings)
        if page_size > positions:
            raise KVError(f"page_size={page_size} is larger than the model's context of {positions} tokens; give less")
        rotary = getattr(config, "rope_parameters", None) is not None
        return cls(page_size, max_pages, positions, rotary, on_full)

    @property
    def slots(self) -> int:
        return self.page_size * self.max_pages

    @property
    def tokens(self) -> int:
        """Tokens that a prompt and its answer can have at most, where none is let go."""
        return min(self.slots, self.positions)

    def check(self, prompt: int, new: int) -> None:
        """Raises KVError for a request of ``prompt`` and ``new`` tokens that can never be answered."""
        if prompt == 0:
            raise KVError("the prompt is empty: give at least one token")
        if prompt > self.positions:
            raise KVError(f"the prompt has {prompt} tokens and the model {self.positions} positions; shorten it")
        if prompt > self.slots:
            raise KVError(
                f"the prompt has {prompt} tokens and max_pages={self.max_pages} pages of {self.page_size} hold "
                f"{self.slots}; give at least {-(-prompt // self.page_size)} pages"
            )
        needed = prompt + new - 1  # the last token is never read again
        if self.on_full == "refuse" and needed > self.tokens:
            where = f"the pages hold {self.slots}" if self.slots <= self.positions else f"the model {self.positions}"
            raise KVError(
                f"a prompt of {prompt} tokens and max_new_tokens={new} need {needed} tokens of context and {where}; "
                "ask for fewer new tokens"
            )

    def fits(self, sequence: Sequence) -> bool:
        """Whether its next tokens have places and positions."""
        held = sequence.held
        return held.length + sequence.pending <= self.slots and sequence.position + sequence.pending <= self.positions

    def slides_pages(self, sequence: Sequence) -> bool:
        """Whether the window can move by giving back a page: positions must be relative, and left."""
        return self.rotary and self.max_pages > 2 and sequence.position + sequence.pending <= self.positions

    def slide(self, sequence: Sequence, pool: PagePool) -> None:
        """Give back the oldest page but the first, whose tokens every other attends to: an approximation, as the
        keys that stay were computed when the dropped ones were seen (arXiv 2309.17453)."""
        pool.drop(sequence.held, 1, 1)
        sequence.dropped += self.page_size

    def restart(self, sequence: Sequence) -> None:
        """Go on from the last half of the room, computed anew: what the model gives for that text alone."""
        keep = max(1, self.tokens // 2)
        sequence.start = len(sequence.token_ids) - keep
