"""``--patience`` and ``--keep_best``, in both flows: what a run ends with, and resuming it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from slm_testing.train.budget_runs import dynamic
from slm_testing.train.killing import finish, kill_and_resume, outcome
from slm_testing.train.tiny_runs import Refused, Tiny, read_record
from slm_train.checkpoints.best_weights import BestWeights, read_best_state
from slm_train.cli import main
from slm_train.errors import CheckpointError

FLOWS = pytest.mark.parametrize("flow", ["trainer", "dynamic"])
# The rate is so high that the loss soon gets worse, and then for long not better.
TOO_FAST = ("--learning_rate", "0.3", "--lr_scheduler_type", "constant", "--mode", "baseline", "--warmup_steps", "0")


def command(flow: str, tiny: Tiny, folder: Path, interval: int | None, *more: str) -> list[str]:
    """Return a command line with an evaluation every ``interval`` steps; None for no such flag."""
    words: tuple[str, ...]
    if flow == "dynamic":
        words = ("--eval_interval", str(interval)) if interval else ()
        return dynamic(tiny, folder, "--max_eval_samples", "3", *words, *more)
    words = ("--eval_strategy", "steps", "--eval_steps", str(interval)) if interval else ()
    return tiny.flags(folder, "--max_eval_samples", "3", "--num_train_epochs", "99", *words, *more)


def losses_during_training(folder: Path) -> dict[int, float]:
    lines = [line for line in outcome(folder).lines if "eval_loss" in line and line["step"]]
    losses = {line["step"]: line["eval_loss"] for line in lines}
    assert len(losses) == len(lines), "a step was evaluated twice"
    return losses


@FLOWS
def test_without_patience_left_a_run_stops_and_keeps_its_best(
    tiny: Tiny, tmp_path: Path, flow: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    flags = command(flow, tiny, folder, 2, *TOO_FAST, "--max_steps", "60", "--patience", "3", "--keep_best")
    assert main(flags) == 0
    losses = losses_during_training(folder)
    best, stopped = min(losses, key=lambda step: losses[step]), max(losses)
    assert stopped < 60
    assert len([step for step in losses if step > best]) >= 3
    record = read_record(folder)
    assert record["status"] == "finished"
    assert record["best"] == {"step": best, "loss": losses[best], "stopped_early": True, "kept": True}
    assert record["evaluation"]["after"]["loss"] == losses[best]
    stored = torch.load(folder / f"best-{best}.pt", weights_only=True)
    weights = load_file(folder / "model.safetensors")
    shared = [name for name in stored["weights"] if name in weights]
    assert shared
    assert all(torch.equal(stored["weights"][name], weights[name]) for name in shared)
    printed = capsys.readouterr().out
    assert f"stopped after step {stopped}: 3 evaluations without a better loss" in printed
    assert f"kept the weights of step {best}" in printed
    # The base model of another run is evaluated by itself.
    again = command(flow, tiny, tmp_path / "again", None, "--model_path", str(folder), "--max_steps", "1")
    assert main(again) == 0
    assert read_record(tmp_path / "again")["evaluation"]["before"]["loss"] == pytest.approx(losses[best], rel=1e-6)


# Slow: twenty seconds more. Other runs of that flow are killed in faster tests.
@pytest.mark.parametrize("flow", ["dynamic", pytest.param("trainer", marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_ends_with_the_same_best_weights(tiny: Tiny, tmp_path: Path, flow: str) -> None:
    more = ("--max_steps", "90", "--max_train_samples", "20", "--mode", "lora", "--learning_rate", "0.1")
    more = (*more, "--keep_best", "--patience", "4", *(("--save_steps", "2") if flow == "trainer" else ()))
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    assert finish(command(flow, tiny, alone, 4, *more)) == 0
    kills = kill_and_resume(command(flow, tiny, killed, 4, *more), killed, kills=3, seed=7, longest=0.15)
    assert len([line for line in kills if line.startswith("killed")]) >= 2, kills
    assert outcome(killed) == outcome(alone)
    best = read_record(alone)["best"]
    assert best["stopped_early"]
    assert read_record(killed)["best"] == best
    assert read_record(killed)["evaluation"]["after"]["loss"] == best["loss"]


@FLOWS
def test_a_run_that_stopped_early_is_unchanged_when_resumed_and_continues_with_more_patience(
    tiny: Tiny, tmp_path: Path, flow: str
) -> None:
    flags = command(flow, tiny, tmp_path, 2, *TOO_FAST, "--max_steps", "40", "--keep_best")
    assert main([*flags, "--patience", "2"]) == 0
    first, record = outcome(tmp_path), read_record(tmp_path)
    (tmp_path / "model.safetensors").unlink()  # as if killed before it was written
    assert main([*flags, "--patience", "2", "--resume_from_checkpoint"]) == 0
    assert outcome(tmp_path) == first
    assert [read_record(tmp_path)[part] for part in ("best", "speed")] == [record["best"], record["speed"]]
    assert main([*flags, "--patience", "4", "--resume_from_checkpoint"]) == 0
    assert max(losses_during_training(tmp_path)) > max(first.losses)


@FLOWS
@pytest.mark.parametrize("flag", ["--keep_best", "--patience"])
def test_without_an_interval_a_run_is_evaluated_ten_times(
    tiny: Tiny, tmp_path: Path, flow: str, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    value = ("50",) if flag == "--patience" else ()
    assert main(command(flow, tiny, tmp_path, None, flag, *value, "--max_steps", "20", "--learning_rate", "1e-5")) == 0
    assert list(losses_during_training(tmp_path)) == list(range(2, 21, 2))
    assert f"evaluating every 2 steps, for {flag} (change it with --eval_" in capsys.readouterr().out


def test_with_a_time_limit_the_default_interval_is_a_tenth_of_the_time(tiny: Tiny, tmp_path: Path) -> None:
    flags = command("trainer", tiny, tmp_path, None, "--keep_best", "--max_minutes", "0.02", "--mode", "lora")
    for name in ("--max_steps", "--num_train_epochs"):
        position = flags.index(name)
        del flags[position : position + 2]
    assert main(flags) == 0
    assert 5 <= len(losses_during_training(tmp_path)) <= 11
    record = read_record(tmp_path)
    assert record["arguments"]["eval_steps"] == 0.1
    assert not record["best"]["stopped_early"]


@FLOWS
def test_a_run_that_never_beats_its_base_says_so(
    tiny: Tiny, tmp_path: Path, flow: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--learning_rate", "5", "--lr_scheduler_type", "constant", "--mode", "baseline")
    assert main(command(flow, tiny, tmp_path, 2, *more, "--max_steps", "4", "--keep_best")) == 0
    assert "no evaluation during training was better than the base model" in capsys.readouterr().out


@FLOWS
def test_best_weights_that_are_gone_are_reported_before_training(
    tiny: Tiny, tmp_path: Path, refused: Refused, flow: str
) -> None:
    flags = command(flow, tiny, tmp_path, 2, "--max_steps", "4", "--keep_best")
    assert main(flags) == 0
    best = read_record(tmp_path)["best"]["step"]
    path = tmp_path / f"best-{best}.pt"
    complete = path.read_bytes()
    path.write_bytes(complete[:-100])
    assert f"{path} is cut short or not a file of the best weights" in refused([*flags, "--resume_from_checkpoint"])
    path.unlink()
    assert f"{path}, the weights of the best evaluation, is gone" in refused([*flags, "--resume_from_checkpoint"])


@FLOWS
def test_turning_it_on_when_resuming_counts_later_evaluations_only(
    tiny: Tiny, tmp_path: Path, flow: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--num_train_epochs", "1", "--max_train_samples", "12", *TOO_FAST)
    flags = [*command(flow, tiny, tmp_path, 2, *more, "--max_steps", "4")]
    assert main(flags) == 0
    longer = [*command(flow, tiny, tmp_path, 2, *more, "--max_steps", "8"), "--keep_best", "--resume_from_checkpoint"]
    longer += ["--accept_changes", "max_steps"]
    assert main(longer) == 0
    assert "were not stored: --keep_best chooses among the evaluations from here on" in capsys.readouterr().out
    losses = {step: loss for step, loss in losses_during_training(tmp_path).items() if step > 4}
    assert read_record(tmp_path)["best"]["step"] == min(losses, key=lambda step: losses[step])


def test_a_checkpoint_resumes_with_its_own_best_weights(tiny: Tiny, tmp_path: Path) -> None:
    flags = command("trainer", tiny, tmp_path, 2, "--max_steps", "8", "--keep_best", "--save_steps", "2")
    assert main([*flags, "--save_total_limit", "2"]) == 0
    assert list(losses_during_training(tmp_path)) == [2, 4, 6, 8]
    whole = outcome(tmp_path)
    # The loss falls, so each checkpoint has other best weights; those of deleted checkpoints are deleted.
    assert sorted(path.name for path in tmp_path.glob("best-*")) == ["best-6.pt", "best-8.pt"]
    assert [state["step"] for step in (6, 8) if (state := read_best_state(tmp_path / f"checkpoint-{step}"))] == [6, 8]
    assert main([*flags, "--resume_from_checkpoint", str(tmp_path / "checkpoint-6")]) == 0
    assert outcome(tmp_path) == whole


@pytest.mark.parametrize(
    ("flow", "flags", "expected"),
    [
        ("trainer", ("--patience", "0"), "--patience 0 must be at least 1"),
        ("dynamic", ("--patience", "-2"), "--patience -2 must be at least 1"),
        ("trainer", ("--patience", "1", "--eval_strategy", "no"), "--patience needs evaluations during training"),
        ("dynamic", ("--keep_best", "--eval_interval", "0"), "--keep_best needs evaluations during training"),
        ("trainer", ("--patience", "1", "--eval_steps", "0"), "--eval_steps 0 must be above 0"),
        ("trainer", ("--keep_best", "--metric_for_best_model", "perplexity"), "not by --metric_for_best_model"),
        (
            "trainer",
            ("--keep_best", "--load_best_model_at_end", "--eval_strategy", "steps", "--eval_steps", "500"),
            "both choose the final weights",
        ),
    ],
    ids=str,
)
def test_contradicting_flags_are_refused(
    tiny: Tiny, tmp_path: Path, refused: Refused, flow: str, flags: tuple[str, ...], expected: str
) -> None:
    assert expected in refused(command(flow, tiny, tmp_path / "run", None, *flags))
    assert not (tmp_path / "run").exists()


def evaluation(loss: float) -> dict[str, Any]:
    return {"eval_loss": loss}


def test_an_evaluation_that_is_not_a_number_is_never_the_best(tmp_path: Path) -> None:
    best = BestWeights(tmp_path, patience=2)
    for step, loss in enumerate((math.nan, 2.0, math.nan, math.nan), 1):
        best.update(step, evaluation(loss), dict)
    assert (best.step, best.loss, best.is_exhausted) == (2, 2.0, True)


def test_weights_of_another_evaluation_under_the_same_name_are_refused(tmp_path: Path) -> None:
    best = BestWeights(tmp_path, keep=True)
    best.update(3, evaluation(2.0), lambda: {"w": torch.ones(2)})
    state = best.state()
    other = BestWeights(tmp_path, keep=True)
    other.update(3, evaluation(1.5), lambda: {"w": torch.zeros(2)})
    best.restore(state, print)
    with pytest.raises(CheckpointError, match=r"best-3.pt has the weights of another run"):
        best.read_weights()
