"""Texts on the page: samples of the trained models by prompt, and strips of samples during training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from slm_lab.results.mode_results import ModeResults
from slm_lab.runs.record import TextSample


@dataclass(frozen=True)
class ModeText:
    """A text of a mode, or of the base model, whose ``color`` is None."""

    name: str
    color: int | None
    text: str


@dataclass(frozen=True)
class PromptTexts:
    """The continuations of a prompt by the base and by each mode."""

    prompt: str
    texts: tuple[ModeText, ...]


@dataclass(frozen=True)
class StripStep:
    """What a model wrote at one point of its training. ``name`` is such as ``step 20``."""

    name: str
    samples: tuple[TextSample, ...]


@dataclass(frozen=True)
class Strip:
    """What the model of a mode wrote, from before training to after it."""

    name: str
    color: int
    steps: tuple[StripStep, ...]


def group_by_prompt(modes: Sequence[ModeResults]) -> list[PromptTexts]:
    """Return the base's continuation of each prompt, then those of the first run of each mode."""
    groups: dict[str, list[ModeText]] = {}
    base = next((samples for mode in modes if (samples := _samples(mode, "before"))), ())
    for sample in base:
        groups.setdefault(sample.prompt, []).append(ModeText("base model", None, sample.continuation))
    for color, mode in enumerate(modes):
        for sample in _samples(mode, "after"):
            groups.setdefault(sample.prompt, []).append(ModeText(mode.label, color, sample.continuation))
    return [PromptTexts(prompt, tuple(texts)) for prompt, texts in groups.items()]


def list_strips(modes: Sequence[ModeResults]) -> Iterator[Strip]:
    """Yield the strip of each mode whose first run sampled texts during training."""
    for color, mode in enumerate(modes):
        sampled = mode.results[0].sampled
        if not sampled:
            continue
        steps = [StripStep(f"step {step.step:,}", step.samples) for step in sampled]
        if before := _samples(mode, "before"):
            steps.insert(0, StripStep("before training", before))
        if after := _samples(mode, "after"):
            steps.append(StripStep("after training", after))
        yield Strip(mode.label, color, tuple(steps))


def _samples(mode: ModeResults, when: str) -> tuple[TextSample, ...]:
    return mode.results[0].run.samples.get(when, ())
