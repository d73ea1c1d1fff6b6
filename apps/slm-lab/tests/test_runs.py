from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slm_lab.runs import Damaged, checkpoint_bytes, command_of, curve, find_runs, read_run, shipped_bytes

MakeRun = Callable[..., Path]


def test_a_folder_is_found_wherever_it_lies_and_its_checkpoints_are_no_runs(tmp_path: Path, make_run: MakeRun) -> None:
    for place in ("a", "b/c", "b/c/d"):
        make_run(tmp_path / place)
    make_run(tmp_path / "a" / "checkpoint-4")
    make_run(tmp_path / ".hidden")
    assert [path.relative_to(tmp_path).as_posix() for path in find_runs(tmp_path)] == ["a", "b/c", "b/c/d"]
    assert [*find_runs(tmp_path / "a")] == [tmp_path / "a"]


def test_links_are_followed_and_no_folder_is_seen_twice(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "elsewhere" / "run")
    root = tmp_path / "root"
    root.mkdir()
    (root / "first").symlink_to(tmp_path / "elsewhere")
    (root / "second").symlink_to(tmp_path / "elsewhere")
    (root / "loop").symlink_to(root)
    (root / "nowhere").symlink_to(tmp_path / "gone")
    assert [*find_runs(root)] == [root / "first" / "run"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not valid JSON"),
        ("", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "no record of slm-train"),
        ("{}", "no record of slm-train"),
        ('{"mode": "lora", "status": "finished", "memory": [1]}', "no record of slm-train"),
        ('{"mode": "lora", "status": "finished", "evaluation": {"after": {}}}', "no record of slm-train"),
        ('{"mode": "lora", "status": "finished", "samples": "text"}', "no record of slm-train"),
    ],
)
def test_a_damaged_record_is_said_to_be_one(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(Damaged, match=said):
        read_run(tmp_path)


def test_a_record_of_bytes_that_are_no_text_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Damaged):
        read_run(tmp_path)


def test_a_run_under_way_has_no_figures_yet_and_is_not_finished(
    tmp_path: Path, make_record: Callable[..., dict[str, Any]]
) -> None:
    found = make_record()
    early = {name: found[name] for name in ("mode", "base", "dataset", "parameters")} | {"status": "running"}
    (tmp_path / "run.json").write_text(json.dumps(early | {"evaluation": {}, "memory": {"with_model": 5}}))
    run = read_run(tmp_path)
    assert (run.finished, run.peak, run.after, run.tokens_per_second) == (False, None, None, None)
    assert run.trainable == found["parameters"]["trainable"]


def test_what_is_no_number_in_a_record_is_none(tmp_path: Path, make_run: MakeRun) -> None:
    memory = {"weights": "many", "gradients": None, "optimizer": float("nan"), "peak": float("inf")}
    run = read_run(make_run(tmp_path, memory=memory))
    assert (run.weights, run.gradients, run.optimizer, run.peak) == (None, None, None, None)


def test_a_curve_is_the_evaluations_of_the_log_with_the_tokens_and_seconds_of_their_steps(tmp_path: Path) -> None:
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
    found = [(moment.step, moment.bits_per_byte, moment.tokens, moment.seconds) for moment in curve(tmp_path)]
    assert found == [(0, 2.0, 0.0, 0.0), (4, 1.5, 100.0, 2.5)]


def test_a_folder_that_was_copied_without_its_log_has_no_curve(tmp_path: Path) -> None:
    assert curve(tmp_path) == ()
    assert shipped_bytes(tmp_path) is None
    assert checkpoint_bytes(tmp_path) is None
    assert command_of(tmp_path) is None


def test_what_is_shipped_is_the_weights_and_a_checkpoint_is_all_in_it(tmp_path: Path) -> None:
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(bytes(10))
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(bytes(5))
    (tmp_path / "tokenizer.json").write_bytes(bytes(99))
    assert shipped_bytes(tmp_path) == 15
    for number in (2, 4):
        inside = tmp_path / f"checkpoint-{number}" / "deep"
        inside.mkdir(parents=True)
        (inside / "optimizer.pt").write_bytes(bytes(7))
        (inside.parent / "model.safetensors").write_bytes(bytes(3))
    assert checkpoint_bytes(tmp_path) == 10
