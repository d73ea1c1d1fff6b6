"""The handle of a request, and the updates that steps of the engine return for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from torch import Tensor

from slm_kv.sampling.logprobs import SampledToken
from slm_kv.sampling.params import SamplingParams
from slm_kv.sampling.speculation import SpeculationCounts

FinishReason = Literal["stop", "length", "cancelled", "error"]


class TokenScore(NamedTuple):
    """How likely a given token is: its natural log-probability, and whether no token is likelier."""

    logprob: float
    greedy: bool


@dataclass(eq=False)
class Handle:
    """One request and its answer so far.

    Attributes:
        id: The number of the request in its engine.
        prompt_ids: The prompt.
        params: How to continue it.
        adapter: The adapter's name; None is the base model.
        use_cache: Whether keys and values are reused from one token to the next.
        token_ids: The tokens generated so far.
        text: Their text. It may lag behind, see Update.
        logprobs: One entry for each generated token, if requested.
        prompt_logprobs: One entry for each token of the prompt from the second on, if requested.
        finish_reason: ``stop`` (end of text, a stop string or a stop token), ``length`` (``max_new_tokens``, or the
            end of the pool or of the model's positions), ``cancelled`` or ``error``; None while it runs.
        error: The message of ``exception``.
        exception: What ended the request with ``error``.
        reused_tokens: Tokens of the prompt whose keys and values were found in the pool.
        slides: How often its context was cut in order to continue (``on_full="window"``).
        speculation: Tokens of the answer that were drafted, and how many of them were sampled.
        scores: One entry for each token of the continuation, for a request of ``submit_scoring``.
        embedding: The embedding of the prompt, [D] in float32, for a request of ``submit_embedding`` that has ended.
    """

    id: int
    prompt_ids: tuple[int, ...]
    params: SamplingParams
    adapter: str | None = None
    use_cache: bool = True
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[SampledToken] = field(default_factory=list)
    prompt_logprobs: list[SampledToken] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    error: str | None = None
    exception: Exception | None = None
    reused_tokens: int = 0
    slides: int = 0
    speculation: SpeculationCounts = field(default_factory=SpeculationCounts)
    scores: list[TokenScore] = field(default_factory=list)
    embedding: Tensor | None = None

    @property
    def finished(self) -> bool:
        """Whether the request has ended."""
        return self.finish_reason is not None


@dataclass(frozen=True)
class Update:
    """The tokens and text that one step added to one request.

    ``text`` may lag behind ``token_ids``: half a character, or text that may begin a stop string, is held back.
    """

    handle: Handle
    text: str
    token_ids: tuple[int, ...]
    finished: bool
