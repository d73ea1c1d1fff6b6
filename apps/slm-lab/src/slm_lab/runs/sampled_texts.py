"""Texts that a model wrote before, during and after training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slm_lab.runs.metrics_lines import read_metrics_lines
from slm_lab.runs.numbers import read_number
from slm_lab.runs.record import METRICS_FILE, TextSample


@dataclass(frozen=True)
class SampledStep:
    """Texts that were sampled after an optimizer step, one for each prompt."""

    step: int
    samples: tuple[TextSample, ...]


def parse_samples(value: Any, prompt: object = "") -> tuple[TextSample, ...]:
    """Parse a list of ``{"prompt": ..., "text": ...}``, in which the text includes the prompt.

    Args:
        value: The list, or a single text, as slm-train wrote it before it took several prompts.
        prompt: The prompt of a single text.
    """
    if isinstance(value, str):
        return (_split(value, prompt if isinstance(prompt, str) else ""),)
    samples = value if isinstance(value, list) else []
    return tuple(
        _split(str(sample["text"]), str(sample.get("prompt", "")))
        for sample in samples
        if isinstance(sample, Mapping) and "text" in sample
    )


def read_sampled_steps(folder: Path) -> tuple[SampledStep, ...]:
    """Read the texts that were sampled during training (``slm-train --sample_every``); empty if there are none."""
    steps: dict[int, SampledStep] = {}
    for line in read_metrics_lines(folder / METRICS_FILE):
        step, samples = read_number(line, "step"), parse_samples(line.get("samples"))
        if step is not None and samples:
            steps[int(step)] = SampledStep(int(step), samples)
    return tuple(steps[step] for step in sorted(steps))


def _split(text: str, prompt: str) -> TextSample:
    # Decoding can change spaces and special characters of a prompt.
    known = prompt if text.startswith(prompt) else ""
    return TextSample(known, text.removeprefix(known))
