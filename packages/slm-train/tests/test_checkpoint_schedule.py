"""``--checkpoint_interval auto``: checkpoints take at most a share of the training time, and resuming stays exact."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_testing.train.budget_runs import dynamic
from slm_testing.train.killing import finish, kill_and_resume, outcome
from slm_testing.train.tiny_runs import Tiny, read_record
from slm_train.checkpoints.checkpoint_schedule import MAX_SHARE, CheckpointSchedule
from slm_train.cli import main
from slm_train.loop import budget_trainer, time_budget

SECONDS = st.floats(1e-4, 10)


def simulate(schedule: CheckpointSchedule, steps: list[float], cost: Callable[[int], float]) -> list[int]:
    """Return the steps after which a checkpoint was written; the n-th of them costs ``cost(n)`` seconds."""
    trained, spent, written = 0.0, 0.0, []
    for step, seconds in enumerate(steps, 1):
        trained += seconds
        if schedule.is_due(step, trained):
            spent += cost(len(written))
            schedule.written(trained, spent)
            written.append(step)
    return written


@given(st.lists(SECONDS, min_size=1, max_size=300), SECONDS)
def test_from_the_second_on_checkpoints_of_one_cost_take_at_most_their_share(steps: list[float], cost: float) -> None:
    written = simulate(CheckpointSchedule(None), steps, lambda _: cost)
    assert written[0] == 1
    for count, step in enumerate(written[1:], 2):
        assert count * cost <= MAX_SHARE * sum(steps[:step]) * (1 + 1e-9)


@given(st.lists(SECONDS, min_size=1, max_size=300), st.lists(SECONDS, min_size=300, max_size=300))
def test_whatever_checkpoints_cost_they_exceed_their_share_by_no_more_than_the_last(
    steps: list[float], costs: list[float]
) -> None:
    written = simulate(CheckpointSchedule(None), steps, costs.__getitem__)
    for count, step in enumerate(written[1:], 2):
        assert sum(costs[:count]) <= MAX_SHARE * sum(steps[:step]) * (1 + 1e-9) + costs[count - 1]
        assert costs[count - 2] <= MAX_SHARE * sum(steps[written[count - 2] : step]) * (1 + 1e-9)


def test_the_interval_follows_the_cost_and_does_not_catch_up() -> None:
    written = simulate(CheckpointSchedule(None), [1.0] * 3000, lambda count: 1.0 if count == 0 else 0.2)
    assert written[:2] == [1, 100]  # two of the cost of the first are 2 % of 100 steps
    assert {later - earlier for earlier, later in pairwise(written[1:])} == {10, 11}  # 11: rounding
    dearer = simulate(CheckpointSchedule(None), [1.0] * 3000, lambda count: 0.02 if count < 100 else 2.0)
    assert dearer[50] - dearer[49] == 1
    assert all(later - earlier >= 100 for earlier, later in pairwise(dearer[101:]))


def test_one_process_decides_and_the_others_follow() -> None:
    other = CheckpointSchedule(None, decides=False)
    assert simulate(other, [1.0] * 100, lambda _: 0.0) == []
    for decides in (True, False):
        assert simulate(CheckpointSchedule(3, decides=decides), [1.0] * 8, lambda _: 9.0) == [3, 6]


# The file is written in milliseconds, and so is the step of a tiny model: some of the steps are saved.
AUTO = ("--checkpoint_interval", "auto", "--max_train_samples", "20", "--log_interval", "2")


def test_a_run_that_is_killed_with_kill_9_resumes_to_the_same_bits(tiny: Tiny, tmp_path: Path) -> None:
    flags = (*AUTO, "--mode", "lora", "--max_steps", "40")
    assert finish(dynamic(tiny, tmp_path / "alone", *flags, "--checkpoint_interval", "1000")) == 0
    folder = tmp_path / "killed"
    kills = kill_and_resume(dynamic(tiny, folder, *flags), folder, kills=1, seed=3, longest=0.1)
    assert len([line for line in kills if line.startswith("killed")]) == 1, kills
    assert outcome(folder) == outcome(tmp_path / "alone")
    record = read_record(folder)
    assert record["arguments"]["checkpoint_interval"] == "auto"
    assert 1 <= record["checkpoints"]["written"] <= 40


def test_evaluations_and_the_end_are_saved_and_the_report_says_how_many(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = saved_steps(monkeypatch)
    clock = fake_clock(monkeypatch)
    assert main(dynamic(tiny, tmp_path, *AUTO, "--eval_interval", "4", "--max_steps", "10")) == 0
    assert steps == [1, 4, 8, 10]  # the first costs a second, and training takes no time on this clock
    record = read_record(tmp_path)
    assert record["checkpoints"]["written"] == 4
    assert record["checkpoints"]["seconds"] == 4.0 == clock.now
    assert record["speed"]["train_seconds"] == 0.0  # without the time of checkpoints
    assert " checkpoints " in capsys.readouterr().out


def saved_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which the steps of all checkpoints are added."""
    steps: list[int] = []
    write = budget_trainer.BudgetTrainer._write_step_checkpoint

    def record(self: Any) -> None:
        steps.append(self.state.global_step)
        write(self)

    monkeypatch.setattr(budget_trainer.BudgetTrainer, "_write_step_checkpoint", record)
    return steps


def fake_clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replace the clocks of training by one on which only checkpoints take time: a second each."""
    clock = SimpleNamespace(now=0.0)
    step_checkpoint = "slm_train.checkpoints.step_checkpoint"

    def write(self: Any, content: dict[str, Any]) -> None:
        write_really(self, content)
        clock.now += 1.0

    write_really = budget_trainer.StepCheckpoint._write
    monkeypatch.setattr(budget_trainer.StepCheckpoint, "_write", write)
    for module in (budget_trainer, time_budget):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(f"{step_checkpoint}.time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock
