"""Texts before and after training in run.json, in the current form and in that of earlier versions."""

from __future__ import annotations

from typing import Any

Samples = list[dict[str, str]]  # the prompt, and the text that includes it


def recorded_samples(record: dict[str, Any]) -> dict[str, Samples]:
    """Return the samples of a record by ``before`` and ``after``.

    Up to slm-train 0.6 a sample was one text, whose prompt is among the arguments.
    """
    samples, prompt = record.get("samples") or {}, (record.get("arguments") or {}).get("prompt", "")
    return {
        when: [{"prompt": str(prompt), "text": texts}] if isinstance(texts, str) else list(texts)
        for when, texts in samples.items()
    }


def recorded_prompts(record: dict[str, Any]) -> list[str] | None:
    """Return the prompts of the run that ``record`` describes, or None if it has none recorded."""
    if before := recorded_samples(record).get("before"):
        return [sample["prompt"] for sample in before]
    prompt = (record.get("arguments") or {}).get("prompt")
    return [text for text in ([prompt] if isinstance(prompt, str) else prompt) if text] if prompt is not None else None
