"""The protocol between the HTTP server and the backends that generate text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from slm_serve.backends.answer import Answer
from slm_serve.backends.served_models import ServedModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from slm_kv import Grammar, SamplingParams

BackendKind = Literal["engine", "transformers", "vllm"]


@dataclass(frozen=True)
class Job:
    """One prompt to continue.

    Args:
        prompt_ids: token ids of the prompt.
        params: sampling parameters and limits.
        model: name of a served model.
        use_cache: False recomputes the whole text for each token.
        streams: send a delta for each step; if False, one delta with the whole text at its end.
        embeds: compute the embedding of the prompt instead of continuing it.
        open_ended: the client asked for no number of tokens, so that a text cut off at a deadline is an answer.
    """

    prompt_ids: tuple[int, ...]
    params: SamplingParams
    model: str
    use_cache: bool = True
    streams: bool = False
    open_ended: bool = False
    embeds: bool = False


@dataclass(frozen=True)
class BackendLoad:
    """Texts and pages in use. The page counts are 0 for a backend without its own page pool.

    ``drafted_tokens`` were computed by speculation before they were sampled; ``accepted_tokens`` of them were sampled.
    """

    running: int
    waiting: int
    pages_used: int
    pages: int
    preemptions: int
    drafted_tokens: int = 0
    accepted_tokens: int = 0


class Backend(Protocol):
    """Generates text for many jobs at once, on its own threads or in its own processes."""

    served: Mapping[str, ServedModel]  # by name; the first is the default
    tokenizer: PreTrainedTokenizerBase  # decodes the texts of all models
    # Encode prompts, by served name; none for a base with another vocabulary than its adapters.
    tokenizers: Mapping[str, PreTrainedTokenizerBase]
    context_length: int  # maximum number of tokens of a prompt and its continuation
    max_sequences: int  # maximum number of jobs that run at the same time
    summary: str  # device, data type and memory, as text for the start-up message
    kind: BackendKind
    reason: str | None  # why transformers' own generation was chosen automatically, as one sentence without paths

    @property
    def failure(self) -> str | None:
        """Why the backend should get no more requests; None while it works."""

    def load(self) -> BackendLoad:
        """Return the current load."""

    def check(self, job: Job) -> None:
        """Validate a job without queuing it. Raises KVError or RequestError for a job that can never be run."""

    def compile_grammar(self, grammar: Grammar) -> None:
        """Compile and validate a grammar for jobs; thread-safe, and can take a second. Raises GrammarError."""

    def submit(self, jobs: Sequence[Job], answer: Answer) -> None:
        """Queue ``jobs``; their deltas go to ``answer``, whose ``on_close`` and ``on_finish`` are set.

        Must be called on the event loop; does not block.
        """

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Serve the adapter in ``folder`` as ``name``, for requests from now on.

        An adapter that has this name is replaced: its running and queued requests are finished, and then its weights
        are freed. Loads are not concurrent. Raises ValueError, one sentence, for an adapter that cannot be served, and
        RequestError; nothing has changed then.
        """

    async def unload_adapter(self, name: str) -> None:
        """Stop serving an adapter; its running and queued requests are finished, and then its weights are freed."""

    def close(self) -> None:
        """Cancel all jobs, free the model and wait until that is done."""
