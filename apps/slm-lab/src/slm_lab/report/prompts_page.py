"""The page of ``slm-lab eval --prompts``: the answers of all models side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slm_lab.report.html_page import render_template
from slm_lab.runs.evaluations import Score


@dataclass(frozen=True)
class AnsweredPrompt:
    """A prompt and the answers to it.

    Attributes:
        turns: Who says what; a text to be continued has one turn without a speaker.
        expected: Right answers.
        answers: The answer of each model, in the order of the page.
        exact: Whether each answer is a right one; empty if none is known.
        f1: The F1 of each answer; empty if none is known.
    """

    turns: Sequence[tuple[str, str]]
    expected: Sequence[str]
    answers: Sequence[str]
    exact: Sequence[bool] = ()
    f1: Sequence[float] = ()


def render_prompts_page(
    title: str, scores: Mapping[str, Sequence[Score]], prompts: Sequence[AnsweredPrompt], facts: Sequence[str]
) -> str:
    """Render the page as HTML. All texts are escaped.

    Args:
        title: The name of the file.
        scores: The scores of each model, by its name.
        prompts: The prompts, with an answer of each model.
        facts: What all models have in common, below the title.
    """
    return render_template(
        "prompts.html", title=title, models=[*scores], rows=_rows(scores), prompts=prompts, facts=facts
    )


def _rows(scores: Mapping[str, Sequence[Score]]) -> list[dict[str, Any]]:
    metrics = dict.fromkeys(score.metric for each in scores.values() for score in each)
    return [
        {
            "label": metric.replace("_", " ").replace("f1", "F1"),
            "cells": [next((score.text for score in each if score.metric == metric), "–") for each in scores.values()],
        }
        for metric in metrics
    ]
