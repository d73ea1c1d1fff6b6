"""What the app asks of whatever generates: one protocol, whoever stands behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from slm_serve.backends.answer import Answer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from slm_kv import SamplingParams


@dataclass(frozen=True)
class Job:
    """One text to continue. ``model``: a name that is served. Without ``streams`` all of it comes at its end."""

    prompt_ids: tuple[int, ...]
    params: SamplingParams
    model: str
    use_cache: bool = True
    streams: bool = False


@dataclass(frozen=True)
class Served:
    """A model by the name that clients give. ``weights``: what computes, such as ``unmerged`` or ``merged``."""

    name: str
    kind: Literal["base", "adapter"]
    parent: str | None
    weights: str


@dataclass(frozen=True)
class Load:
    """What a backend is doing. Pages are 0 where it has none of its own."""

    running: int
    waiting: int
    pages_used: int
    pages: int
    preemptions: int


class Backend(Protocol):
    """Generates for many jobs at once, off the event loop."""

    served: Mapping[str, Served]
    tokenizer: PreTrainedTokenizerBase
    positions: int  # tokens of a prompt and its answer
    max_sequences: int  # jobs that run side by side
    summary: str  # device, dtype, memory: for people

    @property
    def trouble(self) -> str | None:
        """Why it should get no more requests; None while all is well."""

    def load(self) -> Load:
        """What it is doing."""

    def check(self, job: Job) -> None:
        """Raises KVError for a job that can never be answered. For any thread."""

    def submit(self, jobs: Sequence[Job], answer: Answer) -> None:
        """Start ``jobs``, whose Deltas go to ``answer``. Called on the event loop, and does not wait."""

    def close(self) -> None:
        """End what runs, and give everything back. Waits."""
