"""A request in the engine: its tokens, and how many of them are in pages."""

from __future__ import annotations

from collections.abc import Sequence as Ids

from torch import Tensor

from slm_kv.engine.requests import FinishReason, Handle
from slm_kv.engine.text_stream import TextStream
from slm_kv.pages.block_table import BlockTable
from slm_kv.sampling.logprobs import SampledToken, described_token, prompt_logprobs
from slm_kv.sampling.sampler import TokenSampler
from slm_kv.sampling.speculation import Drafter


class Sequence:
    """The state of one request.

    Attributes:
        token_ids: The prompt and the generated tokens.
        prefix_root: The root of the hash chain of its prefixes: a digest of the weights that compute them.
        end_ids: Tokens that end its text, unless they are ignored.
        context_start: The index of the first token in the context.
        dropped: The number of tokens that ``on_full="window"`` took out of the middle of the context.
        drafter: Drafts its next tokens; None without speculation.
        is_decoded: Whether its last token was decoded to text.

    ``context_start`` and ``dropped`` are 0 as long as everything fits into the pool and the model's positions.
    """

    def __init__(
        self,
        handle: Handle,
        sampler: TokenSampler,
        stream: TextStream,
        prefix_root: bytes,
        end_ids: frozenset[int] = frozenset(),
    ) -> None:
        self.handle, self.sampler, self.stream, self.prefix_root = handle, sampler, stream, prefix_root
        self.end_ids = end_ids
        self.token_ids = list(handle.prompt_ids)
        self._block_table: BlockTable | None = None
        self.context_start = 0
        self.dropped = 0
        self.drafter: Drafter | None = None
        self.is_decoded = True

    @property
    def needs_prompt_logits(self) -> bool:
        """Whether the logits of its next rows are needed for logprobs of the prompt."""
        requested = self.handle.params.prompt_logprobs is not None
        return requested and len(self.handle.prompt_logprobs) < len(self.handle.prompt_ids) - 1

    @property
    def reuses_prefix(self) -> bool:
        """Whether cached pages may be used for its first tokens: not if the logits of these tokens are needed."""
        return self.handle.use_cache and not self.needs_prompt_logits

    @property
    def reusable_ids(self) -> list[int]:
        """Its first tokens, as far as cached pages may be used for them."""
        return self.context if self.reuses_prefix else []

    def first_logits_row(self, count: int) -> int:
        """The first of its next ``count`` rows whose logits are needed, if its last token is among them."""
        return 0 if self.needs_prompt_logits else count - 1

    @property
    def running(self) -> bool:
        """Whether it has pages; otherwise it waits."""
        return self._block_table is not None

    @property
    def block_table(self) -> BlockTable:
        """Its pages. Only a running sequence has any."""
        assert self._block_table is not None, "a waiting sequence has no pages"
        return self._block_table

    def start(self, table: BlockTable) -> None:
        """Let the sequence run with the pages of ``table``, which may already contain a cached prefix."""
        self._block_table = table
        if not self.handle.token_ids:
            self.handle.reused_tokens = table.tokens

    def suspend(self) -> None:
        """Take the pages away: the sequence waits. Tokens that ``on_full`` dropped stay out of the context."""
        self._block_table = None
        self.context_start, self.dropped = self.context_start + self.dropped, 0

    @property
    def position(self) -> int:
        """The position of the next token to compute."""
        return self.dropped + self.block_table.tokens

    @property
    def pending(self) -> int:
        """The number of known tokens whose keys and values have not been computed yet."""
        return len(self.token_ids) - self.context_start - self.position

    @property
    def may_draft(self) -> bool:
        """Whether a draft of its next tokens could be of use."""
        return self.handle.use_cache and self.remaining_tokens > 2

    @property
    def remaining_tokens(self) -> int:
        """The number of tokens that may still be generated."""
        return self.handle.params.max_new_tokens - len(self.handle.token_ids)

    @property
    def context(self) -> list[int]:
        """The tokens from which the next one is predicted."""
        return self.token_ids[self.context_start :]

    def next_ids(self, count: int) -> list[int]:
        """The next ``count`` tokens to compute."""
        first = self.context_start + self.position
        return self.token_ids[first : first + count]

    def prompt_targets(self, rows: int) -> Ids[int]:
        """The tokens of the prompt that the logits of its next ``rows`` rows predict; the last row may predict none."""
        first = len(self.handle.prompt_logprobs) + 1
        return self.handle.prompt_ids[first : first + rows]

    def add_prompt_logprobs(self, logits_RV: Tensor) -> None:
        """Add logprobs of the prompt from the logits of its next R rows. Raises InvalidLogits if the model gave NaN."""
        targets = self.prompt_targets(len(logits_RV))
        top = self.handle.params.prompt_logprobs or 0
        self.handle.prompt_logprobs += prompt_logprobs(logits_RV[: len(targets)], targets, top)

    def add_prompt_numbers(self, numbers: Ids[Ids[float]]) -> None:
        """Add logprobs of the prompt from their ``logprob_numbers``. Raises InvalidLogits if the model gave NaN."""
        targets, top = self.prompt_targets(len(numbers)), self.handle.params.prompt_logprobs or 0
        self.handle.prompt_logprobs += [described_token(*pair, top) for pair in zip(targets, numbers, strict=True)]

    def append(self, token: SampledToken) -> None:
        """Add a sampled token. ``decode`` must be called before the next one."""
        self.is_decoded = False
        self.token_ids.append(token.token_id)
        self.handle.token_ids.append(token.token_id)
        if self.handle.params.logprobs is not None:
            self.handle.logprobs.append(token)

    @property
    def ends_by_tokens(self) -> bool:
        """Whether its last token ends it, whatever its text."""
        length = len(self.handle.token_ids)
        return self._has_end_token or self.sampler.complete or length == self.handle.params.max_new_tokens

    @property
    def _has_end_token(self) -> bool:
        token, params = self.token_ids[-1], self.handle.params
        return token in params.stop_token_ids or (token in self.end_ids and not params.ignore_eos)

    def decode(self) -> tuple[str, FinishReason | None]:
        """Decode the token added last, and add to the handle's text what has become certain.

        Returns:
            That text, and the reason if the sequence ends.
        """
        self.is_decoded = True
        text, reason = self._decode()
        self.handle.text += text
        return text, reason

    def _decode(self) -> tuple[str, FinishReason | None]:
        handle, params = self.handle, self.handle.params
        if self._has_end_token:
            return self.stream.finish(), "stop"
        text = self.stream.push(self.token_ids[-1], may_stop=len(handle.token_ids) > params.min_new_tokens)
        if self.stream.stopped:
            return text, "stop"
        if self.sampler.complete:
            return text + self.stream.finish(), "stop"
        if len(handle.token_ids) == params.max_new_tokens:
            return text + self.stream.finish(), "length"
        return text, None
