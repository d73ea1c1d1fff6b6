"""Grouping of runs by mode, caveats, and the axis of curves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slm_lab.results.comparison import Comparison
from slm_lab.results.run_result import RunResult
from slm_lab.runs.record import Run


def make_result(name: str, **changes: Any) -> RunResult:
    run = Run(name, Path(name), "lora", "finished", "sample", "sample", "trainer")
    return RunResult(replace(run, **changes))


def test_runs_that_differ_by_seed_are_one_mode_and_others_are_separate() -> None:
    names = ("lora", "lora-seed43", "lora-seed44", "lora-r4", "deep/lora")
    comparison = Comparison.from_results([make_result(name) for name in names], {})
    counts = {mode.name: len(mode.results) for mode in comparison.modes}
    assert counts == {"lora": 3, "lora-r4": 1, "deep/lora": 1}
    assert comparison.seed_count == 1


@pytest.mark.parametrize(
    ("changes", "caveat"),
    [
        ({"base": "distilgpt2"}, "different bases"),
        ({"validation_fingerprint": "other"}, "different texts"),
        ({"block_size": 64.0}, "rows of different lengths"),
        ({"arguments": {"max_steps": 9}}, "different budgets"),
        ({"device": "H100"}, "different devices"),
        ({"threads": 8}, "different devices or thread counts"),
    ],
)
def test_differences_that_limit_a_comparison_are_named(changes: dict[str, Any], caveat: str) -> None:
    same = {"arguments": {"max_steps": 8}, "validation_fingerprint": "texts"}
    assert Comparison.from_results([make_result("a", **same), make_result("b", **same)], {}).caveats == []
    different = Comparison.from_results([make_result("a", **same), make_result("b", **same | changes)], {})
    (sentence,) = different.caveats
    assert caveat in sentence


@pytest.mark.parametrize(
    ("changes", "axis", "budget"),
    [
        ({"arguments": {"max_steps": 1200}}, "steps", "1,200 optimizer steps"),
        ({"arguments": {"max_steps": 10**9, "max_minutes": 2.5}}, "seconds", "2.5 minutes of training"),
        ({"flow": "dynamic", "tokens": 5000.0}, "tokens", "5,000 predicted tokens"),
        ({"arguments": {"max_steps": -1, "num_train_epochs": 3.0}}, "steps", "3 epochs"),
    ],
)
def test_the_axis_of_the_curves_is_the_unit_of_the_budget(changes: dict[str, Any], axis: str, budget: str) -> None:
    comparison = Comparison.from_results([make_result("a", **changes), make_result("b", **changes)], {})
    assert (comparison.axis, comparison.budget) == (axis, budget)
    other_budget = make_result("b", arguments={"max_steps": 3})
    mixed = Comparison.from_results([make_result("a", **changes), other_budget], {})
    assert (mixed.axis, mixed.budget) == ("steps", "")
