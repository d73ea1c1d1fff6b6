"""What a user of the engine holds: a request's handle, and what a step adds to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from slm_kv.sampling.sampler import Choice
from slm_kv.sampling.params import SamplingParams

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(eq=False)
class Handle:
    """One request: what was asked, and the answer so far.

    ``finish_reason``: ``stop`` (end of text, a stop string or token), ``length`` (``max_new_tokens``, or the end of
    the pool or of the model's positions), ``cancelled``, ``error`` (``error`` says which), None while it runs.
    """

    id: int
    prompt_ids: tuple[int, ...]
    params: SamplingParams
    adapter: str | None = None
    use_cache: bool = True
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[Choice] = field(default_factory=list)  # one a token, where asked for
    prompt_logprobs: list[Choice] = field(default_factory=list)  # of the second prompt token on
    finish_reason: FinishReason | None = None
    error: str | None = None
    exception: Exception | None = None  # what ``error`` is the sentence of
    reused_tokens: int = 0  # of the prompt, found in the pool as it began
    slides: int = 0  # times that its context was cut to go on past the end of the room

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None


@dataclass(frozen=True)
class Update:
    """What one step added to one request. ``text`` may lag behind ``token_ids``: no half character, no text that
    might begin a stop string."""

    handle: Handle
    text: str
    token_ids: tuple[int, ...]
    finished: bool
