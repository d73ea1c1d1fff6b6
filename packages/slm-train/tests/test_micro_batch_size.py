"""``--max_tokens_per_micro_batch auto``: chosen by free memory, printed, recorded, and kept when a run is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from slm_data import RowDataset
from slm_testing.train.budget_runs import dynamic, trainer_of
from slm_testing.train.killing import outcome
from slm_testing.train.tiny_runs import Refused, Tiny, read_record
from slm_train import micro_batch_size
from slm_train.cli import main
from slm_train.command_line.parsing import parse_arguments
from slm_train.hardware import memory_usage
from slm_train.micro_batch_size import SHARE_OF_CPU, estimate_size

AUTO = ("--max_tokens_per_micro_batch", "auto", "--target_tokens_per_step", "900")


@pytest.mark.parametrize("curve", [0, 1, 30_000], ids=["a line", "almost a line", "faster than a line"])
def test_the_largest_size_that_fits_is_chosen(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, curve: int
) -> None:
    trainer = trainer_of(tiny, tmp_path)
    flags = ("--target_tokens_per_step", "4000", "--max_tokens_per_micro_batch", "auto")
    arguments, rows = parse_arguments(dynamic(tiny, tmp_path, *flags)), trainer.train_dataset
    assert isinstance(rows, RowDataset)
    longest, estimates = int(rows.plan.row_lengths.max()), list[int]()

    def activations(_: Any, __: Any, shape: tuple[int, int], *, is_packed: bool) -> int:
        assert shape[1] == longest
        estimates.append(shape[0])
        return 1_000_000 + 400_000 * shape[0] + curve * shape[0] ** 2

    monkeypatch.setattr(micro_batch_size, "activation_bytes", activations)
    sizes = [estimate_size(arguments, trainer.model, rows, free) for free in (0, 16_000_000, 10**12)]
    assert sizes[0].tokens == longest  # at least a row, which is tried
    assert longest < sizes[1].tokens < sizes[2].tokens
    assert sizes[2].tokens == -(-4000 // (longest - 1)) * longest  # never more than a step
    assert 0.6 * SHARE_OF_CPU * sizes[1].free < sizes[1].estimated <= SHARE_OF_CPU * sizes[1].free
    assert len(estimates) <= 12  # each of them takes a part of a second


def test_a_run_records_its_size_and_keeps_it_when_it_is_resumed_with_other_free_memory(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(micro_batch_size, "free_memory", lambda _: 12_000_000)
    assert main(dynamic(tiny, tmp_path / "auto", *AUTO, "--max_steps", "2")) == 0
    record = read_record(tmp_path / "auto")
    tokens = record["arguments"]["max_tokens_per_micro_batch"]
    assert tokens == record["identity"]["settings"]["max_tokens_per_micro_batch"] == record["micro_batch"]["tokens"]
    assert 64 < tokens < 900
    output = capsys.readouterr().out
    assert f"micro-batches of at most {tokens:,} tokens" in output
    assert output.count("plan: ") == 1
    monkeypatch.setattr(micro_batch_size, "free_memory", lambda _: 10**12)
    longer = dynamic(tiny, tmp_path / "auto", *AUTO, "--max_steps", "4", "--accept_changes", "max_steps")
    assert main([*longer, "--resume_from_checkpoint"]) == 0
    assert read_record(tmp_path / "auto")["arguments"]["max_tokens_per_micro_batch"] == tokens
    same = ("--max_tokens_per_micro_batch", str(tokens), "--target_tokens_per_step", "900", "--max_steps", "2")
    assert main(dynamic(tiny, tmp_path / "given", *same)) == 0
    longer = dynamic(tiny, tmp_path / "given", *same, "--max_steps", "4", "--accept_changes", "max_steps")
    assert main([*longer, "--resume_from_checkpoint"]) == 0
    assert outcome(tmp_path / "auto") == outcome(tmp_path / "given")


def test_running_out_of_memory_all_the_same_is_one_sentence(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("slm_train.loop.budget_trainer.BudgetTrainer._loss", fail)
    assert "out of memory when allocating 2.00 GiB more" in refused(dynamic(tiny, tmp_path, *AUTO))


def test_free_memory_of_a_gpu_includes_what_torch_holds_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 50)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 20)
    assert memory_usage.free_memory(torch.device("cuda", 0)) == 130
    assert memory_usage.free_memory(torch.device("cpu")) > 0
