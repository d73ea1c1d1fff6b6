"""How many tokens a sequence can have, and what happens at the limit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from slm_kv.engine.scheduler import Scheduler
from slm_kv.engine.sequence import Sequence
from slm_kv.errors import KVError
from slm_kv.pages.pool import PagePool

OnFull = Literal["refuse", "stop", "window", "error"]


@dataclass(frozen=True)
class ContextLimits:
    """The limits of a sequence: those of the pool and those of the model.

    Attributes:
        page_size: Tokens in a page.
        max_pages: Pages of the pool.
        positions: Positions that the model knows.
        rotary: Whether positions are relative (rotary embeddings).
        on_full: What happens to a sequence that reaches a limit, see Engine.
        window: No layer attends to more than the last ``window`` tokens. None: a layer attends to all.
        limitation: Why ``positions`` are fewer than the model's, as a line of its own; empty if they are not.
    """

    page_size: int
    max_pages: int
    positions: int
    rotary: bool
    on_full: OnFull
    window: int | None = None
    limitation: str = ""

    @classmethod
    def from_config(
        cls, config: Any, page_size: int, max_pages: int, window: int | None, on_full: OnFull
    ) -> ContextLimits:
        """Combine a pool's size with a model's config.

        Args:
            config: The model's config. If it names no number of positions, the pool's slots are the limit.
            page_size: Tokens in a page.
            max_pages: Pages of the pool.
            window: The longest sliding window of the model's layers; None if a layer has none.
            on_full: See Engine.

        Raises:
            KVError: a page is larger than the model's context, or ``on_full`` is unknown.
        """
        if on_full not in get_args(OnFull):
            raise KVError(f"on_full={on_full!r} is not one of {', '.join(get_args(OnFull))}")
        text_config = config.get_text_config()
        positions = getattr(text_config, "max_position_embeddings", None) or page_size * max_pages
        if page_size > positions:
            raise KVError(f"page_size={page_size} exceeds the model's context of {positions} tokens; give less")
        rotary = getattr(text_config, "rope_parameters", None) is not None
        return cls(page_size, max_pages, positions, rotary, on_full, window)

    def narrowed(self, positions: int, window: int | None) -> ContextLimits:
        """These limits with a window, and at most ``positions``: beyond, neighbours in a batch would change a text.

        Raises:
            KVError: a page is larger.
        """
        if positions >= self.positions:
            return replace(self, window=window)
        if self.page_size > positions:
            raise KVError(f"page_size={self.page_size} exceeds the context of {positions} tokens; give less")
        why = f"\ncontext: {positions} of {self.positions} positions, as rotary scaling beyond depends on the batch"
        return replace(self, positions=positions, window=window, limitation=why)

    @property
    def slots(self) -> int:
        """The number of tokens for which the pool has slots."""
        return self.page_size * self.max_pages

    @property
    def limited_by_pages(self) -> bool:
        """Whether the pages are full before the model's positions end.

        They never are if the pool holds all tokens that a layer attends to: the pages before them are released.
        """
        releases_pages = self.window is not None and self.window - 1 + self.page_size <= self.slots
        return self.slots <= self.positions and not releases_pages

    @property
    def tokens(self) -> int:
        """The largest number of tokens in a prompt and its answer, unless ``on_full`` drops some."""
        return self.slots if self.limited_by_pages else self.positions

    def check(self, prompt_tokens: int, new_tokens: int) -> None:
        """Check the size of a request.

        Raises:
            KVError: the request can never be answered.
        """
        if prompt_tokens == 0:
            raise KVError("the prompt is empty: give at least one token")
        if prompt_tokens > self.positions:
            raise KVError(
                f"the prompt has {prompt_tokens} tokens and the model has {self.positions} positions; shorten it"
            )
        if prompt_tokens > self.tokens:
            raise KVError(
                f"the prompt has {prompt_tokens} tokens and max_pages={self.max_pages} pages of {self.page_size} hold "
                f"{self.slots}; give at least {self._pages_for_prompt(prompt_tokens)} pages"
            )
        needed = prompt_tokens + new_tokens - 1  # the keys and values of the last token are never read
        if self.on_full == "refuse" and needed > self.tokens:
            limit = (
                f"the pages hold {self.slots}" if self.limited_by_pages else f"the model has {self.positions} positions"
            )
            raise KVError(
                f"a prompt of {prompt_tokens} tokens and max_new_tokens={new_tokens} need {needed} tokens of context "
                f"and {limit}; ask for fewer new tokens"
            )

    def _pages_for_prompt(self, tokens: int) -> int:
        needed = tokens if self.window is None else min(tokens, self.window - 1 + self.page_size)
        return -(-needed // self.page_size)

    def fits(self, sequence: Sequence) -> bool:
        """Return whether there are slots and positions for the sequence's next tokens."""
        slots = sequence.block_table.length + sequence.pending
        enough_slots = slots <= self.slots or not self.limited_by_pages
        return enough_slots and sequence.position + sequence.pending <= self.positions

    @property
    def drops_pages(self) -> bool:
        """Whether the oldest page but the first can be dropped: positions must be relative."""
        return self.rotary and self.max_pages > 2 and self.limited_by_pages

    def can_drop_page(self, sequence: Sequence) -> bool:
        """Return whether the oldest page but the first can be dropped, now that the sequence does not fit.

        The next tokens must not exceed the positions that the model knows.
        """
        return self.drops_pages and sequence.position + sequence.pending <= self.positions

    def drop_page(self, sequence: Sequence, pool: PagePool) -> None:
        """Drop the oldest page but the first, to which all tokens attend strongly (attention sinks, arXiv 2309.17453).

        This is an approximation: the remaining keys and values were computed with the dropped tokens in the context.
        """
        pool.drop(sequence.block_table, 1, 1)
        sequence.dropped += self.page_size

    def slide(self, sequence: Sequence, scheduler: Scheduler) -> None:
        """Let a running sequence that does not fit continue: drop a page, or compute the last half again."""
        sequence.handle.slides += 1
        if sequence.handle.use_cache and self.can_drop_page(sequence):
            self.drop_page(sequence, scheduler.pool)
        else:
            scheduler.preempt(sequence)
            self.keep_last_half(sequence)

    def keep_last_half(self, sequence: Sequence) -> None:
        """Continue from the last half of the limit, as if the text began there. The sequence must be waiting."""
        context_length = max(1, self.tokens // 2)
        sequence.context_start = len(sequence.token_ids) - context_length
