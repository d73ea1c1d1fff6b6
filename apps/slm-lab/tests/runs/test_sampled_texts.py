"""Texts of a run: in the old and the new form, and sampled during training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slm_lab.runs.learning_curve import read_curve
from slm_lab.runs.reading import read_run
from slm_lab.runs.record import TextSample
from slm_lab.runs.sampled_texts import SampledStep, parse_samples, read_sampled_steps
from slm_testing.lab.made_runs import write_run


@pytest.mark.parametrize(
    ("value", "prompt", "expected"),
    [
        ("Once upon a time.", "Once upon", (TextSample("Once upon", " a time."),)),
        ("Once  upon a time.", "Once upon", (TextSample("", "Once  upon a time."),)),
        ("Once.", None, (TextSample("", "Once."),)),
        (
            [{"prompt": "Once", "text": "Once more."}, {"prompt": "<b>", "text": "b"}],
            ["Once", "<b>"],
            (TextSample("Once", " more."), TextSample("", "b")),
        ),
        ([{"text": "no prompt"}, "stray", {"prompt": "no text"}], None, (TextSample("", "no prompt"),)),
        (None, "Once", ()),
    ],
)
def test_one_text_and_a_list_of_texts_are_read(value: Any, prompt: Any, expected: tuple[TextSample, ...]) -> None:
    assert parse_samples(value, prompt) == expected


def test_a_record_of_either_form_is_read(tmp_path: Path) -> None:
    write_run(tmp_path / "old")
    write_run(tmp_path / "new", samples={"after": [{"prompt": "A", "text": "A b"}, {"prompt": "C", "text": "C d"}]})
    assert read_run(tmp_path / "old").samples["after"] == (TextSample("Once upon a", " lora."),)
    assert read_run(tmp_path / "new").samples["after"] == (TextSample("A", " b"), TextSample("C", " d"))


def test_texts_sampled_during_training_are_read_by_step_and_leave_the_curve_as_it_is(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    curve = read_curve(folder)
    lines = [{"step": step, "samples": [{"prompt": "A", "text": f"A {step}"}]} for step in (8, 4, 4)]
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9, "samp')
    assert read_sampled_steps(folder) == tuple(SampledStep(step, (TextSample("A", f" {step}"),)) for step in (4, 8))
    assert read_curve(folder) == curve
    assert read_sampled_steps(tmp_path / "gone") == ()
