"""Estimated times: they follow from the batches of the run, and timing leaves no trace."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

import slm_train.flow as flow
import slm_train.reports.run_summary as run_summary
from slm_data import RowDataset
from slm_testing.train.budget_runs import dynamic, trainer_of
from slm_testing.train.tiny_runs import Tiny
from slm_train.cli import main
from slm_train.time_estimate.step_timing import RunTimes, estimate_times
from slm_train.time_estimate.timed_model import TimedModel

Flags = Callable[..., list[str]]
flows = pytest.mark.parametrize("flags", [Tiny.flags, dynamic], ids=["trainer", "dynamic"])
FEW = ("--max_eval_tokens", "400")  # evaluations take no longer than needed
PER_SLOT, PER_EVALUATED_SLOT, OPTIMIZER = 1e-3, 2e-4, 0.5  # seconds


@flows
def test_a_run_that_is_timed_ends_with_the_same_bits(
    tiny: Tiny, tmp_path: Path, flags: Flags, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--max_steps", "12", "--lora_dropout", "0.5", "--learning_rate", "1e-2", *FEW)
    assert main(flags(tiny, tmp_path / "timed", *more)) == 0
    assert "\ntime " in capsys.readouterr().out
    monkeypatch.setattr(flow, "show_run_summary", lambda *_: None)
    assert main(flags(tiny, tmp_path / "untimed", *more)) == 0
    timed, untimed = (tmp_path / name / "adapter_model.safetensors" for name in ("timed", "untimed"))
    assert timed.read_bytes() == untimed.read_bytes()


def test_modes_gradients_buffers_and_random_numbers_are_left_as_they_were(tiny: Tiny, tmp_path: Path) -> None:
    trainer = trainer_of(tiny, tmp_path / "run")
    model: Any = trainer.model
    collator: Any = trainer.data_collator
    rows = trainer.train_dataset
    assert isinstance(rows, RowDataset)
    model.register_buffer("calls", torch.zeros(1))
    model.register_forward_pre_hook(lambda module, _: module.calls.add_(1) and None)
    model.train()
    frozen = next(module for module in model.modules() if isinstance(module, torch.nn.LayerNorm))
    frozen.eval()
    dropout = next(module for module in model.modules() if isinstance(module, torch.nn.Dropout))
    dropout.p = 0.5
    state = torch.get_rng_state()
    timed = TimedModel(model, trainer.args, collator, trainer.loss_context, trainer.evaluation_loss)
    with timed.without_trace():
        assert timed.training_seconds(rows, np.arange(3)) > 0
        assert timed.evaluation_seconds(rows, np.arange(3)) > 0
        assert float(model.calls) == 2
        assert any(parameter.grad is not None for parameter in model.parameters())
    assert float(model.calls) == 0
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert not frozen.training


class ConstantSpeed(TimedModel):
    """Takes a fixed time for each token of a batch, padding included, and records the batches."""

    batches: ClassVar[list[tuple[int, int]]] = []  # set anew by each test

    def training_seconds(self, rows: RowDataset, batch: Any) -> float:
        self.batches.append((len(batch), int(rows.plan.row_lengths[batch].max())))
        return PER_SLOT * np.prod(self.batches[-1])

    def evaluation_seconds(self, rows: RowDataset, batch: Any) -> float:
        return PER_EVALUATED_SLOT * len(batch) * int(rows.plan.row_lengths[batch].max())

    def optimizer_seconds(self) -> float:
        return OPTIMIZER


@pytest.fixture
def estimates(monkeypatch: pytest.MonkeyPatch) -> list[RunTimes | None]:
    """The estimates of the runs of a test, at a constant speed."""
    made: list[RunTimes | None] = []

    def estimate(timed: TimedModel, *rest: Any) -> RunTimes | None:
        made.append(estimate_times(ConstantSpeed(**vars(timed)), *rest))
        return made[-1]

    monkeypatch.setattr(ConstantSpeed, "batches", [])
    monkeypatch.setattr(run_summary, "estimate_times", estimate)
    return made


@flows
@pytest.mark.parametrize(
    ("packing", "length"),
    [
        ("none", ("--num_train_epochs", "2", "--max_steps", "-1", "--max_train_samples", "15")),
        ("best_fit", ("--max_steps", "24")),
    ],
)
def test_the_estimate_is_that_of_all_batches_of_the_run(
    tiny: Tiny,
    tmp_path: Path,
    flags: Flags,
    packing: str,
    length: tuple[str, ...],
    estimates: list[RunTimes | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slots = {True: 0, False: 0}
    forward = GPT2LMHeadModel.forward

    def counting(model: Any, *inputs: Any, **named: Any) -> Any:
        if not named["input_ids"].is_meta:
            slots[model.training] += named["input_ids"].numel()
        return forward(model, *inputs, **named)

    argv = flags(tiny, tmp_path / "run", "--mode", "baseline", "--packing", packing, *length, *FEW)
    if flags is Tiny.flags:
        argv += ("--gradient_accumulation_steps", "2")
    prepare = run_summary.show_run_summary

    def count_from_here(*inputs: Any) -> None:
        prepare(*inputs)
        monkeypatch.setattr(GPT2LMHeadModel, "forward", counting)

    monkeypatch.setattr(flow, "show_run_summary", count_from_here)
    assert main(argv) == 0
    (estimate,) = estimates
    assert estimate
    steps = json.loads((tmp_path / "run" / "run.json").read_text())["speed"]["steps"]
    assert estimate.training == pytest.approx(PER_SLOT * slots[True] + OPTIMIZER * steps, rel=0.03)
    assert estimate.evaluations == 2
    assert estimate.total - estimate.training == pytest.approx(PER_EVALUATED_SLOT * slots[False], rel=0.01)


@pytest.mark.parametrize(
    ("flags", "more"),
    [
        (Tiny.flags, ()),
        (Tiny.flags, ("--eval_strategy", "steps", "--eval_steps", "7")),
        (Tiny.flags, ("--eval_strategy", "steps", "--eval_steps", "10")),
        (Tiny.flags, ("--eval_strategy", "steps", "--eval_steps", "0.25")),
        (
            Tiny.flags,
            ("--eval_strategy", "epoch", "--max_steps", "-1", "--num_train_epochs", "3", "--max_train_samples", "4"),
        ),
        (dynamic, ("--eval_interval", "4")),
        (dynamic, ("--eval_interval", "10", "--keep_best")),
    ],
)
def test_the_number_of_evaluations_is_that_of_the_run(
    tiny: Tiny, tmp_path: Path, flags: Flags, more: tuple[str, ...], estimates: list[RunTimes | None]
) -> None:
    assert (
        main(flags(tiny, tmp_path / "run", *(() if "--max_steps" in more else ("--max_steps", "20")), *FEW, *more)) == 0
    )
    (estimate,) = estimates
    assert estimate
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert estimate.evaluations == sum("eval_loss" in line for line in lines)


@flows
def test_what_has_been_done_before_a_run_is_resumed_is_not_estimated_again(
    tiny: Tiny, tmp_path: Path, flags: Flags, estimates: list[RunTimes | None]
) -> None:
    more = ("--max_steps", "40", *FEW)
    saving = ("--save_steps", "20") if flags is Tiny.flags else ()
    assert main(flags(tiny, tmp_path / "run", "--max_steps", "20", *FEW, *saving)) == 0
    longer = [*flags(tiny, tmp_path / "run", *more), "--resume_from_checkpoint", "--accept_changes", "max_steps"]
    assert main(longer) == 0
    first, resumed = estimates
    assert first
    assert resumed
    assert resumed.training == pytest.approx(first.training, rel=0.15)
    assert (first.evaluations, resumed.evaluations) == (2, 1)


@pytest.mark.parametrize(("steps", "rows"), [("1", None), ("12", 2), ("40", 4)])
def test_timing_is_a_small_part_of_the_run(
    tiny: Tiny, tmp_path: Path, steps: str, rows: int | None, estimates: list[RunTimes | None]
) -> None:
    """``rows`` of a batch of 4 are timed; None if nothing is."""
    flags = ("--max_steps", steps, "--max_eval_samples", "1")
    assert main(tiny.flags(tmp_path / "run", *flags)) == 0
    assert (estimates == [None]) == (rows is None)
    assert {size for size, _ in ConstantSpeed.batches[1:]} == ({rows} if rows else set())


def test_a_time_budget_is_the_time_of_training(
    tiny: Tiny, tmp_path: Path, estimates: list[RunTimes | None], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = tiny.flags(tmp_path / "run", "--max_minutes", "0.02", "--eval_strategy", "steps", "--eval_steps", "0.25")
    position = argv.index("--max_steps")
    assert main(argv[:position] + argv[position + 2 :]) == 0
    (estimate,) = estimates
    assert estimate
    assert estimate.training == pytest.approx(1.2)
    assert estimate.evaluations == 5
    assert "as many as 0.02 minutes allow" in capsys.readouterr().out


@flows
def test_the_summary_and_the_dry_run_show_the_size_of_the_run(
    tiny: Tiny, tmp_path: Path, flags: Flags, capsys: pytest.CaptureFixture[str]
) -> None:
    summaries = []
    argv = flags(tiny, tmp_path / "run", "--max_steps", "12", "--learning_rate", "0.003", "--max_eval_tokens", "300")
    for more in (["--dry_run"], []):
        assert main([*argv, *more]) == 0
        lines = capsys.readouterr().out.splitlines()
        start = next(index for index, line in enumerate(lines) if line.startswith("training  "))
        summaries.append(lines[start : start + 5])
    dry, real = summaries
    assert dry[:4] == real[:4]
    assert [line.split("  ")[0] for line in dry] == ["training", "steps", "learning rate", "evaluation", "time"]
    assert "12 of " in dry[1]
    assert "0.003, linear" in dry[2]
    assert re.search(r" rows, [23]\d\d of \d,\d{3} tokens$", dry[3])


def test_a_dry_run_that_is_out_of_memory_says_what_helps(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Any
) -> None:
    def out_of_memory(*_: Any) -> None:
        raise torch.OutOfMemoryError("tried to allocate 2.00 GiB")

    monkeypatch.setattr(TimedModel, "training_seconds", out_of_memory)
    message = refused([*tiny.flags(tmp_path / "run", "--max_steps", "60"), "--dry_run"])
    assert "out of memory when allocating 2.00 GiB more" in message
    assert "--gradient_checkpointing" in message
