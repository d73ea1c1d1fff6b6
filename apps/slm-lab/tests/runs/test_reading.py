"""Reading run.json, metrics.jsonl and file sizes, damaged ones included."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slm_lab.errors import DamagedRecordError
from slm_lab.runs.disk_sizes import checkpoint_bytes, weight_file_bytes
from slm_lab.runs.learning_curve import read_curve
from slm_lab.runs.reading import read_command, read_run
from slm_testing.lab.made_runs import make_record, write_run


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not valid JSON"),
        ("", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "not written by slm-train"),
        ("{}", "not written by slm-train"),
        ('{"mode": "lora", "status": "finished", "memory": [1]}', "not written by slm-train"),
        ('{"mode": "lora", "status": "finished", "evaluation": {"after": {}}}', "not written by slm-train"),
        ('{"mode": "lora", "status": "finished", "samples": "text"}', "not written by slm-train"),
        ('{"mode": "lora", "status": "finished", "speed": {"steps": 1%s}}' % ("0" * 400), "not written by slm-train"),
    ],
)
def test_a_damaged_record_is_reported_with_the_reason(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(DamagedRecordError, match=reason):
        read_run(tmp_path)


def test_a_record_that_is_not_text_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DamagedRecordError):
        read_run(tmp_path)


def test_a_run_in_progress_has_no_figures_yet_and_is_not_finished(tmp_path: Path) -> None:
    record = make_record()
    early = {name: record[name] for name in ("mode", "base", "dataset", "parameters")} | {"status": "running"}
    (tmp_path / "run.json").write_text(json.dumps(early | {"evaluation": {}, "memory": {"with_model": 5}}))
    run = read_run(tmp_path)
    assert (run.finished, run.peak_bytes, run.after, run.tokens_per_second) == (False, None, None, None)
    assert run.trainable_parameters == record["parameters"]["trainable"]


def test_values_that_are_not_finite_numbers_are_none(tmp_path: Path) -> None:
    memory = {"weights": "many", "gradients": None, "optimizer": float("nan"), "peak": float("inf")}
    run = read_run(write_run(tmp_path, memory=memory))
    assert (run.weight_bytes, run.gradient_bytes, run.optimizer_bytes, run.peak_bytes) == (None, None, None, None)


def test_a_curve_has_the_evaluations_of_the_log_with_the_tokens_and_seconds_of_their_steps(tmp_path: Path) -> None:
    lines = [
        '{"step": 0, "eval_bits_per_byte": 2.0, "seconds": 0}',
        '{"step": 4, "loss": 1.0, "tokens": 100}',
        '{"step": 4, "eval_bits_per_byte": 1.5, "seconds": 2.5}',
        "not json at all",
        '{"step": 6, "loss": 0.9, "tokens": 150}',
        '{"step": 8, "eval_bits_per_byte": NaN}',
        '{"step": 8, "eval_bits_per',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    points = [(point.step, point.bits_per_byte, point.tokens, point.seconds) for point in read_curve(tmp_path)]
    assert points == [(0, 2.0, 0.0, 0.0), (4, 1.5, 100.0, 2.5)]


def test_a_folder_copied_without_its_log_has_no_curve(tmp_path: Path) -> None:
    assert read_curve(tmp_path) == ()
    assert weight_file_bytes(tmp_path) is None
    assert checkpoint_bytes(tmp_path) is None
    assert read_command(tmp_path) is None


def test_weight_files_are_counted_alone_and_a_checkpoint_with_all_its_files(tmp_path: Path) -> None:
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(bytes(10))
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(bytes(5))
    (tmp_path / "tokenizer.json").write_bytes(bytes(99))
    assert weight_file_bytes(tmp_path) == 15
    for number in (2, 4):
        inside = tmp_path / f"checkpoint-{number}" / "deep"
        inside.mkdir(parents=True)
        (inside / "optimizer.pt").write_bytes(bytes(7))
        (inside.parent / "model.safetensors").write_bytes(bytes(3))
    assert checkpoint_bytes(tmp_path) == 10
