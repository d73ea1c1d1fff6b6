"""The gradient of a step of micro-batches is that of one large batch, even if some are split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from slm_data import RowCollator
from slm_testing.train.budget_runs import gradients_of, trained, trainer_of
from slm_testing.train.gradients import relative_difference
from slm_testing.train.tiny_runs import Tiny
from slm_train.loop.budget_trainer import BudgetTrainer

every_mode = pytest.mark.parametrize("mode", ["baseline", "lora", "qlora", "butterfly", "butterfly_block"])


def one_large_batch(trainer: BudgetTrainer, step: int = 0) -> dict[str, torch.Tensor]:
    """Gradients of the mean loss over all rows of a step at once, as Hugging Face's model computes it."""
    rows: Any = trainer.train_dataset
    collator: Any = trainer.data_collator
    numbers = [row for part in trainer.plan.micro_batches(step) for row in part.tolist()]
    batch = RowCollator(collator.pad_token_id, collator.packed)([rows[number] for number in numbers])
    model: Any = trainer.model
    model.train()
    model(**batch, use_cache=False).loss.backward()
    gradients = gradients_of(model)
    model.zero_grad()
    return gradients


@every_mode
@pytest.mark.parametrize("packing", ["none", "best_fit"])
def test_micro_batches_give_the_gradient_of_one_large_batch(
    tiny: Tiny, tmp_path: Path, mode: str, packing: str
) -> None:
    flags = ("--mode", mode, "--packing", packing, "--learning_rate", "0", "--max_train_samples", "25")
    trainer = trainer_of(tiny, tmp_path, *flags, "--target_tokens_per_step", "400", steps="4")
    parts = [part for step in range(4) for part in trainer.plan.micro_batches(step)]
    if packing == "none":
        assert any(len(set(trainer.plan.lengths[part])) > 1 for part in parts)  # rows that are padded
    whole = [one_large_batch(trainer, step) for step in range(4)]
    step_gradients = trained(trainer)
    assert len(step_gradients) == 4
    for step in range(4):
        assert len(trainer.plan.micro_batches(step)) >= 3
        assert relative_difference(whole[step], step_gradients[step]) <= 1e-6


def test_the_logged_loss_is_the_mean_over_the_tokens_of_the_step(tiny: Tiny, tmp_path: Path) -> None:
    trainer = trainer_of(tiny, tmp_path, "--mode", "baseline")
    rows: Any = trainer.train_dataset
    model: Any = trainer.model
    nll = tokens = 0.0
    for part in trainer.plan.micro_batches(0):
        for number in part.tolist():
            ids = torch.from_numpy(rows[number].input_ids)[None]
            with torch.no_grad():
                model.eval()
                logits = model(input_ids=ids, use_cache=False).logits.double()
            nll += float(torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum"))
            tokens += ids.shape[1] - 1
    trained(trainer)
    line = next(line for line in trainer.state.log_history if "loss" in line)
    assert line["loss"] == pytest.approx(nll / tokens, rel=1e-6)
    assert line["tokens"] == tokens


def test_a_model_whose_loss_is_always_a_mean_gets_the_same_gradient(tiny: Tiny, tmp_path: Path) -> None:
    trainer = trainer_of(tiny, tmp_path, "--mode", "baseline", "--fused_loss", "false")
    whole = one_large_batch(trainer)
    trainer.model_accepts_loss_kwargs = False
    assert relative_difference(whole, trained(trainer)[0]) <= 1e-6


class LittleMemory(torch.nn.Module):
    """A hook that raises out-of-memory for batches of more than ``rows`` rows, in the forward or the backward pass."""

    def __init__(self, rows: int, backward: bool):
        super().__init__()
        self.rows, self.backward, self.refused = rows, backward, 0

    def __call__(self, module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if len(kwargs["input_ids"]) <= self.rows:
            return
        self.refused += 1
        if not self.backward:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        output.loss.register_hook(self._refuse)

    def _refuse(self, gradient: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("mode", ["baseline", "lora"])
def test_out_of_memory_splits_the_micro_batch_and_keeps_the_gradient(
    tiny: Tiny, tmp_path: Path, mode: str, backward: bool
) -> None:
    printed: list[str] = []
    flags = ("--mode", mode, "--max_tokens_per_micro_batch", "512", "--target_tokens_per_step", "900")
    trainer = trainer_of(tiny, tmp_path, *flags, printed=printed, steps="2")
    assert max(len(part) for part in trainer.plan.micro_batches(0)) >= 5
    whole = one_large_batch(trainer)
    memory = LittleMemory(2, backward)
    model: Any = trainer.model
    model.register_forward_hook(memory, with_kwargs=True)
    step_gradients = trained(trainer)
    assert memory.refused >= 2  # halved more than once
    assert relative_difference(whole, step_gradients[0]) <= 1e-6
    assert len(step_gradients) == 2
    assert len([line for line in printed if "out of memory" in line]) == 1


def test_a_single_row_that_does_not_fit_ends_the_run(tiny: Tiny, tmp_path: Path) -> None:
    trainer = trainer_of(tiny, tmp_path, "--mode", "lora")
    model: Any = trainer.model
    model.register_forward_hook(LittleMemory(0, False), with_kwargs=True)
    with pytest.raises(torch.OutOfMemoryError):
        trainer.train()


def test_another_error_of_torch_is_not_taken_for_out_of_memory(tiny: Tiny, tmp_path: Path) -> None:
    trainer = trainer_of(tiny, tmp_path, "--mode", "lora")
    model: Any = trainer.model

    def broken(*_: object) -> None:
        raise RuntimeError("shapes do not match")

    model.register_forward_hook(broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        trainer.train()


def test_padding_to_a_multiple_does_not_change_the_gradient(tiny: Tiny, tmp_path: Path) -> None:
    trainer = trainer_of(tiny, tmp_path, "--mode", "lora", "--pad_to_multiple_of", "16")
    lengths: list[int] = []
    model: Any = trainer.model
    whole = one_large_batch(trainer)

    def record_length(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        lengths.append(kwargs["input_ids"].shape[1])

    model.register_forward_pre_hook(record_length, with_kwargs=True)
    step_gradients = trained(trainer)
    assert {length % 16 for length in lengths} == {0}
    assert relative_difference(whole, step_gradients[0]) <= 1e-6
