"""``slm-train dynamic`` through its command line: what a run leaves, in each mode."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from slm_testing.train.budget_runs import dynamic, trainer_of
from slm_testing.train.tiny_runs import Tiny, read_record
from slm_train.cli import main
from slm_train.options.model import MODES


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("mode", MODES)
def test_a_run_lowers_the_loss_and_leaves_a_complete_run_folder(
    tiny: Tiny, tmp_path: Path, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--mode", mode, "--max_steps", "6", "--eval_interval", "3", "--log_interval", "2", "--lora_dropout", "0")
    assert main(dynamic(tiny, tmp_path, *more, "--learning_rate", "1e-2")) == 0
    output = capsys.readouterr().out
    record = read_record(tmp_path)
    assert record["status"] == "finished"
    assert record["flow"] == "dynamic"
    assert record["evaluation"]["after"]["loss"] < record["evaluation"]["before"]["loss"]
    assert record["speed"]["steps"] == 6
    assert record["memory"]["gradients"] > 0
    assert record["memory"]["optimizer"] == 2 * record["memory"]["gradients"] + 4 * trained_tensors(tmp_path)
    assert record["checkpoints"]["written"] == 6
    lines = log(tmp_path)
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6]
    assert [line["step"] for line in lines if "eval_loss" in line] == [0, 3, 6]
    logged_steps = [line for line in lines if "loss" in line]
    assert record["speed"]["tokens"] == logged_steps[-1]["tokens"] >= 6 * 200
    for line in logged_steps:
        assert 0 < line["utilisation"] <= 1
        assert line["tokens_per_second"] > 0
        assert line["memory"] > 0
        assert line["grad_norm"] > 0
    assert "steps of 200 predicted tokens" in output
    assert "trainable parameters" in output


def trained_tensors(folder: Path) -> int:
    """Return the number of trained tensors; Adam has a step counter for each."""
    return len(torch.load(folder / "dynamic_checkpoint.pt", weights_only=True)["weights"])


def test_a_checkpoint_of_an_adapter_contains_no_base_weights(tiny: Tiny, tmp_path: Path) -> None:
    assert main(dynamic(tiny, tmp_path, "--mode", "lora", "--max_steps", "1")) == 0
    state = torch.load(tmp_path / "dynamic_checkpoint.pt", weights_only=True)
    adapter = load_file(tmp_path / "adapter_model.safetensors")
    checkpoint_weights = {name.replace(".default", ""): values for name, values in state["weights"].items()}
    assert checkpoint_weights.keys() == adapter.keys()
    assert all(torch.equal(checkpoint_weights[name], adapter[name]) for name in checkpoint_weights)


def test_an_epoch_is_every_token_once(tiny: Tiny, tmp_path: Path) -> None:
    length = ("--max_steps", "-1", "--num_train_epochs", "1")
    assert main(dynamic(tiny, tmp_path, *length, "--max_train_samples", "12")) == 0
    record = read_record(tmp_path)
    rows = record["data"]["train"]["rows"]  # the first token of each has nothing before it
    assert record["speed"]["tokens"] == record["data"]["train"]["tokens"] - rows


def test_a_dry_run_counts_the_steps_that_a_run_takes(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = dynamic(tiny, tmp_path, "--max_steps", "-1", "--num_train_epochs", "2", "--max_train_samples", "5")
    assert main([*flags, "--dry_run"]) == 0
    output = capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert main(flags) == 0
    line = next(line for line in output.splitlines() if "optimizer steps" in line)
    assert int(line.split("│")[2].replace(",", "")) == read_record(tmp_path)["speed"]["steps"]


def test_packed_documents_have_the_loss_of_single_ones(tiny: Tiny, tmp_path: Path) -> None:
    losses = []
    for packing in ("none", "best_fit"):
        more = ("--packing", packing, "--packing_fill", "0", "--max_train_samples", "6", "--mode", "baseline")
        more = (*more, "--target_tokens_per_step", "100000", "--max_tokens_per_micro_batch", "512")
        trainer = trainer_of(tiny, tmp_path / packing, *more)
        trainer.train()
        losses.append(next(line for line in trainer.state.log_history if "loss" in line))
    single, packed = losses
    assert single["tokens"] == packed["tokens"]
    assert single["loss"] == pytest.approx(packed["loss"], rel=1e-6)
