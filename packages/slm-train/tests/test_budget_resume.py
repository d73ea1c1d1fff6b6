"""Resuming ``slm-train dynamic``: after kills, signals and more epochs; refusals of other runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from slm_testing.train.budget_runs import dynamic
from slm_testing.train.killing import Outcome, finish, kill_and_resume, outcome, start
from slm_testing.train.tiny_runs import OTHER_RUNS, Refused, Tiny, read_record
from slm_train.cli import main

LONG = ("--max_steps", "60", "--max_train_samples", "20", "--eval_interval", "20", "--log_interval", "3")


# Slow: ten to fifteen seconds each.
@pytest.mark.parametrize(
    ("mode", "more"),
    [
        pytest.param("lora", (), marks=pytest.mark.slow),
        pytest.param("butterfly", ("--packing", "best_fit", "--checkpoint_interval", "4"), marks=pytest.mark.slow),
        ("baseline", ("--schedule_in", "tokens", "--lr_scheduler_type", "cosine", "--keep_best")),
    ],
)
def test_a_run_killed_at_random_moments_resumes_to_the_same_bits_and_lines(
    tiny: Tiny, tmp_path: Path, mode: str, more: tuple[str, ...]
) -> None:
    more = (*LONG, "--mode", mode, *more)
    assert finish(dynamic(tiny, tmp_path / "alone", *more)) == 0
    folder = tmp_path / "killed"
    kills = kill_and_resume(dynamic(tiny, folder, *more), folder, kills=4, seed=7, longest=0.15)
    assert len([line for line in kills if line.startswith("killed")]) >= 2, kills
    assert outcome(folder) == outcome(tmp_path / "alone")
    assert len(outcome(folder).losses) == 20
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


STOPPED = ("--max_steps", "40", "--checkpoint_interval", "1000")


@pytest.fixture(scope="module")
def unstopped(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The result of the run that is stopped by signals, without them."""
    folder = tmp_path_factory.mktemp("unstopped") / "run"
    assert finish(dynamic(tiny, folder, *STOPPED)) == 0
    return outcome(folder)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_step_and_loses_nothing(
    tiny: Tiny, unstopped: Outcome, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    stopped = tmp_path / "stopped"
    process = start(dynamic(tiny, stopped, *STOPPED))
    metrics = stopped / "metrics.jsonl"
    while process.is_alive() and not (metrics.exists() and '"loss"' in metrics.read_text()):
        time.sleep(0.01)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == code
    assert read_record(stopped)["status"] == "stopped"
    state = torch.load(stopped / "dynamic_checkpoint.pt", weights_only=True)
    assert max(outcome_steps(stopped)) == state["step"] >= 1
    assert finish([*dynamic(tiny, stopped, *STOPPED), "--resume_from_checkpoint"]) == 0
    assert outcome(stopped) == unstopped


def outcome_steps(folder: Path) -> list[int]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if "loss" in line]


def test_more_epochs_continue_after_the_first_ones(tiny: Tiny, tmp_path: Path) -> None:
    more = ("--max_steps", "-1", "--max_train_samples", "4", "--lr_scheduler_type", "constant")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(dynamic(tiny, whole, *more, "--num_train_epochs", "3")) == 0
    assert main(dynamic(tiny, parts, *more, "--num_train_epochs", "1")) == 0
    longer = dynamic(tiny, parts, *more, "--num_train_epochs", "3", "--accept_changes", "num_train_epochs")
    assert main([*longer, "--resume_from_checkpoint"]) == 0
    assert outcome(parts).weights == outcome(whole).weights
    assert outcome(parts).losses == outcome(whole).losses


def test_a_lengthened_run_has_the_rates_of_its_new_schedule(tiny: Tiny, tmp_path: Path) -> None:
    more = ("--max_steps", "-1", "--max_train_samples", "4", "--learning_rate", "1e-3")
    assert main(dynamic(tiny, tmp_path, *more, "--num_train_epochs", "1")) == 0
    done = torch.load(tmp_path / "dynamic_checkpoint.pt", weights_only=True)["step"]
    longer = dynamic(tiny, tmp_path, *more, "--num_train_epochs", "2", "--accept_changes", "num_train_epochs")
    assert main([*longer, "--resume_from_checkpoint"]) == 0
    rates = {line["step"]: line["learning_rate"] for line in outcome(tmp_path).lines if "loss" in line}
    total = max(rates)
    assert total > done
    for step in range(done + 1, total + 1):
        assert rates[step] == pytest.approx(1e-3 * (total - step + 1) / total, rel=1e-12)


def test_a_finished_run_is_unchanged_when_it_is_resumed(tiny: Tiny, tmp_path: Path) -> None:
    flags = dynamic(tiny, tmp_path, "--max_steps", "3")
    assert main(flags) == 0
    uninterrupted, record = outcome(tmp_path), read_record(tmp_path)
    next(tmp_path.glob("*.safetensors")).unlink()  # as if killed before it was written
    assert main([*flags, "--resume_from_checkpoint"]) == 0
    assert outcome(tmp_path) == uninterrupted
    assert read_record(tmp_path)["speed"] == record["speed"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        *OTHER_RUNS,
        (("--target_tokens_per_step", "300"), "--target_tokens_per_step 200, now 300"),
        (("--learning_rate", "1"), "--learning_rate 0.004, now 1.0"),
        (("--schedule_in", "tokens"), "--schedule_in steps, now tokens"),
        (("--weight_decay", "0.5"), "--weight_decay 0.0, now 0.5"),
        (("--seed", "3"), "--seed 42, now 3"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    finished: Path, tiny: Tiny, refused: Refused, change: tuple[str, ...], named: str
) -> None:
    before = (finished / "dynamic_checkpoint.pt").read_bytes()
    sentence = refused([*dynamic(tiny, finished, "--max_steps", "2", *change), "--resume_from_checkpoint"])
    assert f"was trained with {named}" in sentence
    assert (finished / "dynamic_checkpoint.pt").read_bytes() == before


def test_a_folder_that_became_read_only_is_reported(
    tiny: Tiny, small_disk: Path, refused: Refused, finished: Path
) -> None:
    folder = small_disk / "run"
    folder.mkdir()
    for name in ("dynamic_checkpoint.pt", "metrics.jsonl", "run.json"):
        (folder / name).write_bytes((finished / name).read_bytes())
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for more in ("--resume_from_checkpoint", "--overwrite_output_dir"):
        sentence = refused([*dynamic(tiny, folder, "--max_steps", "4"), more])
        assert f"cannot write into {folder}; make it writable, or give another folder" in sentence


@pytest.fixture(scope="module")
def finished(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    assert main(dynamic(tiny, folder, "--max_steps", "2")) == 0
    return folder


def test_a_run_continues_without_its_record(finished: Path, tiny: Tiny, tmp_path: Path, refused: Refused) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "run.json").unlink()
    sentence = refused([*dynamic(tiny, folder, "--mode", "baseline"), "--resume_from_checkpoint"])
    assert "was trained with --mode lora" in sentence  # the checkpoint says so itself
    longer = dynamic(tiny, folder, "--max_steps", "4", "--accept_changes", "max_steps")
    assert main([*longer, "--resume_from_checkpoint"]) == 0


def test_a_checkpoint_cut_short_is_refused_and_not_changed(
    finished: Path, tiny: Tiny, tmp_path: Path, refused: Refused
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    whole = (folder / "dynamic_checkpoint.pt").read_bytes()
    (folder / "dynamic_checkpoint.pt").write_bytes(whole[:-1000])
    sentence = refused([*dynamic(tiny, folder, "--max_steps", "4"), "--resume_from_checkpoint"])
    assert "dynamic_checkpoint.pt is cut short" in sentence
    assert (folder / "dynamic_checkpoint.pt").read_bytes() == whole[:-1000]


def test_neither_flow_continues_a_run_of_the_other(
    finished: Path, tiny: Tiny, tmp_path: Path, refused: Refused
) -> None:
    assert "run of the token-budget loop" in refused([*tiny.flags(finished), "--resume_from_checkpoint"])
    assert main(tiny.flags(tmp_path, "--max_steps", "1", "--save_steps", "1")) == 0
    assert "run of the Trainer" in refused([*dynamic(tiny, tmp_path), "--resume_from_checkpoint"])
    assert main([*dynamic(tiny, tmp_path, "--max_steps", "1"), "--overwrite_output_dir"]) == 0
    assert sorted(path.name for path in tmp_path.glob("*checkpoint*")) == ["dynamic_checkpoint.pt"]


def test_the_checkpoint_to_resume_from_must_be_in_the_run_folder(
    finished: Path, tiny: Tiny, tmp_path: Path, refused: Refused
) -> None:
    flags = dynamic(tiny, tmp_path / "other", "--max_steps", "2")
    sentence = refused([*flags, "--resume_from_checkpoint", str(finished / "dynamic_checkpoint.pt")])
    assert "a run continues in its own folder" in sentence
    named = str(finished / "dynamic_checkpoint.pt")
    assert main([*dynamic(tiny, finished, "--max_steps", "2"), "--resume_from_checkpoint", named]) == 0
