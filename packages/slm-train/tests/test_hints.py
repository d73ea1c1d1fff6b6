"""Hints after runs that changed little or did harm."""

from __future__ import annotations

from typing import Any

import pytest

from slm_train.reports.hints import find_hints


def record(before: float, after: float, *, same_text: bool = False, **settings: Any) -> dict[str, Any]:
    texts = [{"prompt": "Once", "text": "Once there was a fox."}], [{"prompt": "Once", "text": "Once, a fox ran."}]
    return {
        "evaluation": {"before": {"loss": before}, "after": {"loss": after}},
        "samples": {"before": texts[0], "after": texts[0] if same_text else texts[1]},
        "speed": {"steps": settings.pop("steps", 60)},
        "arguments": {"learning_rate": 1e-3, "num_train_epochs": 3.0, "max_steps": -1, "max_minutes": None} | settings,
    }


def test_a_run_that_changed_the_model_needs_no_hint() -> None:
    assert find_hints(record(3.0, 2.5)) == []
    assert find_hints(record(3.0, 2.5) | {"samples": {}}) == []


@pytest.mark.parametrize(
    ("run", "parts"),
    [
        (record(3.0, 2.999), ("fell by only 0.0%", "--num_train_epochs 12", "--find_learning_rate", "than 0.001")),
        (record(3.0, 2.5, same_text=True, steps=400), ("The sample after training is that from before",)),
        (record(3.0, 2.999, max_steps=5, steps=5), ("try training longer than 5 steps (--max_steps 20)",)),
        (record(3.0, 2.999, max_minutes=0.5), ("--max_minutes 2",)),
        (record(3.0, 3.1), ("rose from 3.0000 to 3.1000", "--learning_rate 0.0002", "--find_learning_rate")),
    ],
)
def test_the_hint_names_what_happened_and_flags_that_help(run: dict[str, Any], parts: tuple[str, ...]) -> None:
    (hint,) = find_hints(run)
    assert all(part in hint for part in parts), hint


def test_a_long_run_is_not_told_to_train_longer_nor_a_searched_one_to_search() -> None:
    (hint,) = find_hints(record(3.0, 2.999, steps=400))
    assert "--num_train_epochs" not in hint
    (hint,) = find_hints(record(3.0, 2.999) | {"learning_rate_search": {}})
    assert "--find_learning_rate" not in hint


def test_samples_of_older_runs_are_texts() -> None:
    run = record(3.0, 2.5) | {"samples": {"before": "Once a fox.", "after": "Once a fox."}}
    assert "The sample after training" in find_hints(run)[0]
