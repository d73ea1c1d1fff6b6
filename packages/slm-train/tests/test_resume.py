"""Resuming a run of the Trainer: after kills and signals, from a given checkpoint; refusals of other runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from slm_testing.train.budget_runs import dynamic
from slm_testing.train.killing import Outcome, finish, kill_and_resume, outcome, start
from slm_testing.train.tiny_runs import OTHER_RUNS, Refused, Tiny, read_record

LONG = (
    "--max_steps",
    "60",
    "--save_steps",
    "1",
    "--per_device_train_batch_size",
    "2",
    "--num_train_epochs",
    "9",
)


# Slow: ten to fifteen seconds each.
@pytest.mark.parametrize(
    ("mode", "packing"),
    [
        ("lora", "best_fit"),
        pytest.param("baseline", "none", marks=pytest.mark.slow),
        pytest.param("butterfly", "best_fit", marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_at_random_moments_resumes_to_the_same_bits(
    tiny: Tiny, tmp_path: Path, mode: str, packing: str
) -> None:
    more = (*LONG, "--mode", mode, "--packing", packing, "--max_train_samples", "20")
    assert finish(tiny.flags(tmp_path / "alone", *more)) == 0
    kills = kill_and_resume(tiny.flags(tmp_path / "killed", *more), tmp_path / "killed", kills=4, seed=7, longest=0.15)
    assert len([line for line in kills if line.startswith("killed")]) >= 2, kills
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "alone")


STOPPED = ("--max_steps", "40", "--save_steps", "1000", "--num_train_epochs", "9")


@pytest.fixture(scope="module")
def unstopped(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The result of the run that is stopped by signals, without them."""
    folder = tmp_path_factory.mktemp("unstopped") / "run"
    assert finish(tiny.flags(folder, *STOPPED)) == 0
    return outcome(folder)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_step_saves_and_the_run_goes_on_from_there(
    tiny: Tiny, unstopped: Outcome, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    process = start(tiny.flags(tmp_path / "stopped", *STOPPED))
    metrics = tmp_path / "stopped" / "metrics.jsonl"
    while process.is_alive() and not (metrics.exists() and '"loss"' in metrics.read_text()):
        time.sleep(0.01)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == code
    assert read_record(tmp_path / "stopped")["status"] == "stopped"
    assert finish([*tiny.flags(tmp_path / "stopped", *STOPPED), "--resume_from_checkpoint"]) == 0
    assert outcome(tmp_path / "stopped") == unstopped


@pytest.mark.parametrize("mode", ["baseline", "lora"])
def test_a_finished_run_is_unchanged_when_it_is_resumed(tiny: Tiny, tmp_path: Path, mode: str) -> None:
    from slm_train.cli import main

    run = tmp_path / "run"
    flags = tiny.flags(run, "--mode", mode, "--max_steps", "-1", "--max_train_samples", "4", "--save_steps", "1")
    assert main(flags) == 0
    whole, record = outcome(run), read_record(run)
    for file in run.glob("*.safetensors"):  # as if killed before they were written
        file.unlink()
    assert main([*flags, "--resume_from_checkpoint"]) == 0
    assert outcome(run) == whole
    resumed_record = read_record(run)
    assert [resumed_record[part] for part in ("speed", "memory")] == [record[part] for part in ("speed", "memory")]
    assert resumed_record["evaluation"]["before"] == record["evaluation"]["before"]
    assert resumed_record["evaluation"]["after"]["loss"] == record["evaluation"]["after"]["loss"]
    assert resumed_record["status"] == "finished"


def test_a_damaged_checkpoint_is_skipped_and_named(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from slm_train.cli import main

    flags = tiny.flags(tmp_path / "run", "--save_steps", "2", "--mode", "lora")
    assert main(flags) == 0
    whole = outcome(tmp_path / "run")
    weights = tmp_path / "run" / "checkpoint-4" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    capsys.readouterr()
    assert main([*flags, "--resume_from_checkpoint"]) == 0
    printed = capsys.readouterr().out
    assert "checkpoint-4" in printed
    assert "adapter_model.safetensors" in printed
    assert f"resuming from {tmp_path / 'run' / 'checkpoint-2'}" in printed.replace("\n", "")
    assert outcome(tmp_path / "run") == whole


@pytest.mark.parametrize("flags", [Tiny.flags, dynamic], ids=["trainer", "dynamic"])
def test_resuming_without_a_checkpoint_starts_from_the_beginning_with_a_message(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: Callable[..., list[str]]
) -> None:
    from slm_train.cli import main

    assert main([*flags(tiny, tmp_path / "run", "--max_steps", "1"), "--resume_from_checkpoint"]) == 0
    assert "nothing to resume" in capsys.readouterr().out


@pytest.fixture(scope="module")
def finished(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run with checkpoints."""
    from slm_train.cli import main

    folder = tmp_path_factory.mktemp("finished") / "run"
    assert main(tiny.flags(folder, "--save_steps", "2")) == 0
    return folder


@pytest.mark.parametrize(
    ("change", "named"),
    [*OTHER_RUNS, (("--mode", "butterfly"), "--mode lora, now butterfly")],
)
def test_a_checkpoint_of_another_run_is_refused(
    tiny: Tiny, finished: Path, refused: Refused, change: tuple[str, ...], named: str
) -> None:
    before = json.dumps(read_record(finished))
    sentence = refused([*tiny.flags(finished, *change), "--resume_from_checkpoint"])
    assert f"was trained with {named}" in sentence
    assert json.dumps(read_record(finished)) == before


def test_a_run_continues_from_a_given_checkpoint_and_later_ones_are_replaced(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from slm_train.cli import main

    run = tmp_path / "run"
    flags = tiny.flags(run, "--save_steps", "2", "--max_steps", "6", "--save_total_limit", "9")
    assert main(flags) == 0
    whole = outcome(run)
    shutil.copytree(run / "checkpoint-4", run / "checkpoint-5")
    capsys.readouterr()
    assert main([*flags, "--resume_from_checkpoint", str(run / "checkpoint-2")]) == 0
    printed = capsys.readouterr().out
    assert [f"checkpoint-{n} is after it" in printed for n in (2, 4, 5, 6)] == [False, True, True, True]
    assert sorted(path.name for path in run.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    assert outcome(run) == whole


def test_a_checkpoint_under_another_name_is_refused(tiny: Tiny, tmp_path: Path, refused: Refused) -> None:
    from slm_train.cli import main

    run = tmp_path / "run"
    assert main(tiny.flags(run, "--save_steps", "2")) == 0
    (run / "checkpoint-2").rename(run / "backup")
    assert "rename it to checkpoint-N" in refused([*tiny.flags(run), "--resume_from_checkpoint", str(run / "backup")])


def test_a_streamed_run_resumes_to_the_same_bits(tiny: Tiny, tmp_path: Path) -> None:
    from slm_train.cli import main

    more = ("--streaming", "--max_steps", "6", "--save_steps", "2", "--save_total_limit", "9")
    assert main(tiny.flags(tmp_path / "alone", *more)) == 0
    stopped = tiny.flags(tmp_path / "stopped", *more)
    shutil.copytree(tmp_path / "alone", tmp_path / "stopped")
    for later in ("checkpoint-4", "checkpoint-6", "adapter_model.safetensors"):
        path = tmp_path / "stopped" / later
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert main([*stopped, "--resume_from_checkpoint"]) == 0
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "alone")
