"""The record of a run: what its run.json contains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from slm_lab.runs.evaluations import Evaluations

# Files of a run folder.
RECORD_FILE, METRICS_FILE, COMMAND_FILE = "run.json", "metrics.jsonl", "lab.json"

When = Literal["before", "after"]


@dataclass(frozen=True)
class Evaluation:
    """Quality on held-out text."""

    perplexity: float
    bits_per_byte: float


@dataclass(frozen=True)
class TextSample:
    """A prompt and its continuation by a model. ``prompt`` is empty if decoding has changed it."""

    prompt: str
    continuation: str


@dataclass(frozen=True)
class Run:
    """A run of slm-train. None means that run.json does not contain the value, or not yet."""

    name: str
    folder: Path
    mode: str
    status: str
    base: str
    dataset: str
    flow: str  # "trainer" or "dynamic"
    seed: int | None = None
    before: Evaluation | None = None
    after: Evaluation | None = None
    trainable_parameters: float | None = None
    total_parameters: float | None = None
    weight_bytes: float | None = None
    gradient_bytes: float | None = None
    optimizer_bytes: float | None = None
    peak_bytes: float | None = None
    memory_kind: str = "memory"
    steps: float | None = None
    tokens: float | None = None
    train_seconds: float | None = None
    tokens_per_second: float | None = None
    device: str = ""
    threads: int | None = None
    validation_fingerprint: str = ""
    block_size: float | None = None
    samples: Mapping[str, tuple[TextSample, ...]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    evaluations: Evaluations = field(default_factory=Evaluations)

    def bits_per_byte(self, when: When) -> float | None:
        """Return bits per byte ``before`` or ``after`` training."""
        evaluation = self._evaluation(when)
        return None if evaluation is None else evaluation.bits_per_byte

    def perplexity(self, when: When) -> float | None:
        """Return perplexity ``before`` or ``after`` training."""
        evaluation = self._evaluation(when)
        return None if evaluation is None else evaluation.perplexity

    def _evaluation(self, when: When) -> Evaluation | None:
        return self.before if when == "before" else self.after

    @property
    def finished(self) -> bool:
        """Whether training came to its end, with both evaluations."""
        return self.status == "finished" and self.before is not None and self.after is not None
