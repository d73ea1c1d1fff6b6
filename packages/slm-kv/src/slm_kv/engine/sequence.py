"""A request under way: which of its tokens are in pages, and at which positions the next ones go."""

from __future__ import annotations

from slm_kv.pages.pool import BlockTable
from slm_kv.engine.requests import FinishReason, Handle
from slm_kv.sampling.sampler import Choice, TokenSampler
from slm_kv.engine.text_stream import TextStream


class Sequence:
    """``token_ids`` is the prompt and what was generated. ``start`` is the first token of it in the context, and
    ``dropped`` counts those that a sliding window took out of the middle; both are 0 while everything fits."""

    def __init__(self, handle: Handle, sampler: TokenSampler, stream: TextStream, root: bytes) -> None:
        self.handle, self.sampler, self.stream, self.root = handle, sampler, stream, root
        self.token_ids = list(handle.prompt_ids)
        self.table: BlockTable | None = None
        self.start = 0
        self.dropped = 0

    @property
    def wants_prompt_rows(self) -> bool:
        """Whether the logits of its next rows are asked for, sampled from or not."""
        asked = self.handle.params.prompt_logprobs is not None
        return asked and len(self.handle.prompt_logprobs) < len(self.handle.prompt_ids) - 1

    @property
    def reuses_prefix(self) -> bool:
        """Known pages save computing rows; where the rows themselves are asked for, none are taken."""
        return self.handle.use_cache and not self.wants_prompt_rows

    @property
    def held(self) -> BlockTable:
        """Its pages; only of a running sequence."""
        assert self.table is not None, "a waiting sequence holds no pages"
        return self.table

    def begin(self, table: BlockTable) -> None:
        """It runs from here on, with what the pool knew of it."""
        self.table = table
        if not self.handle.token_ids:
            self.handle.reused_tokens = table.length

    def end(self) -> None:
        """It holds no pages any more. Tokens that a window dropped stay out of its context from here on."""
        self.table = None
        self.start, self.dropped = self.start + self.dropped, 0

    @property
    def position(self) -> int:
        """Position of the next token to compute."""
        return self.dropped + self.held.length

    @property
    def pending(self) -> int:
        """Tokens that are known, but whose keys are not in pages yet."""
        return len(self.token_ids) - self.start - self.position

    @property
    def context(self) -> list[int]:
        """The tokens that the next one is predicted from."""
        return self.token_ids[self.start :]

    def next_ids(self, count: int) -> list[int]:
        """The next ``count`` tokens to compute."""
        first = self.start + self.position
        return self.token_ids[first : first + count]

    def append(self, choice: Choice, ends: frozenset[int]) -> tuple[str, FinishReason | None]:
        """Take the next token. Its certain text, and why the sequence ends with it, if it does."""
        handle, params = self.handle, self.handle.params
        self.token_ids.append(choice.token_id)
        handle.token_ids.append(choice.token_id)
        if params.logprobs is not None:
            handle.logprobs.append(choice)
        if choice.token_id in params.stop_token_ids or (choice.token_id in ends and not params.ignore_eos):
            return self.stream.finish(), "stop"
        piece = self.stream.push(choice.token_id, may_stop=len(handle.token_ids) > params.min_new_tokens)
        if self.stream.stopped:
            return piece, "stop"
        if len(handle.token_ids) == params.max_new_tokens:
            return piece + self.stream.finish(), "length"
        return piece, None
