"""Operations of an optimizer step of each mode in both flows, and what of it would wait for a GPU: nothing.

The steps run on a CPU, with what is chosen on a GPU where that is possible. Whether a GPU is waited for, a test on one
decides.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, TrainerCallback, masking_utils

from slm_testing.adapters.cache_changes import compare_by_memory
from slm_testing.train.budget_runs import trainer_flow_of, trainer_of
from slm_testing.train.step_operations import OperationCounter, Readings
from slm_testing.train.tiny_runs import Tiny
from slm_train.loop.trainer import SlmTrainer
from slm_train.model.mask_checks import WithoutMaskChecks, document_numbers

# Operations of an optimizer step of two micro-batches of packed rows in bfloat16, clipping and AdamW included: those of
# torch 2.13, transformers 5.19 and peft 0.21. The Trainer's step has three less.
OPERATIONS = {"baseline": 435, "lora": 569, "butterfly": 473, "butterfly_block": 479, "oft": 1215, "qlora": 707}
MORE = 1.05  # for other versions
ON_THE_HOST = "slm_train.loop.micro_batches.count_predicted"  # reads a batch that is not on the device yet


class CountedStep(TrainerCallback):
    """Counts the operations of the third step."""

    def __init__(self) -> None:
        self.operations, self.readings = OperationCounter(), Readings()

    def on_step_end(self, *arguments: Any, **_: Any) -> None:
        if arguments[1].global_step == 2:
            self.operations.__enter__()
            self.readings.__enter__()
        elif arguments[1].global_step == 3:
            self.readings.__exit__(None, None, None)
            self.operations.__exit__(None, None, None)

    @property
    def waiting(self) -> list[str]:
        """What would wait for a GPU, and where it is called."""
        return [place for place in (*self.operations.waiting, *self.readings.places) if ON_THE_HOST not in place]


def make_trainer(tiny: Tiny, folder: Path, flow: str, *more: str) -> SlmTrainer:
    if flow == "dynamic":
        quiet = ("--log_interval", "100", "--checkpoint_interval", "100", "--max_grad_norm", "1")
        return trainer_of(tiny, folder, *quiet, *more, steps="4")
    quiet = ("--logging_steps", "100", "--save_strategy", "no", "--gradient_accumulation_steps", "2")
    trainer = trainer_flow_of(tiny, folder, *quiet, *more)
    model: Any = trainer.model
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # as in the other flow; dropout of attention is computed otherwise on a CPU
    return trainer


@pytest.mark.parametrize("flow", ["dynamic", "trainer"])
@pytest.mark.parametrize(("mode", "packing"), [("baseline", "none"), *((mode, "best_fit") for mode in OPERATIONS)])
def test_nothing_in_a_step_waits_for_a_gpu(
    tiny: Tiny, tmp_path: Path, mode: str, flow: str, packing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(tiny, tmp_path, flow, "--mode", mode, "--packing", packing, "--bf16", "true")
    # As on a GPU.
    trainer.finite_check.is_free = False
    trainer.mask_context = WithoutMaskChecks(packing == "best_fit")
    compare_by_memory(monkeypatch)
    counted = CountedStep()
    trainer.add_callback(counted)
    trainer.train()
    assert counted.waiting == []
    assert counted.operations.count <= MORE * OPERATIONS[mode]


def test_the_count_of_waits_sees_each_kind_of_them() -> None:
    x = torch.arange(4.0)
    with OperationCounter() as operations, Readings() as readings:
        x.sum().item()
        x[x > 1]
        x[x > 1] = 0.0
        torch.nonzero(x)
        torch.equal(x, x)
        x.tolist()
        bool((x > 0).any())
        x.cpu()
    names = [place.split()[0] for place in operations.waiting]
    assert names[:5] == ["_local_scalar_dense", "index", "index_put_", "nonzero", "equal"]
    assert [place.split()[0] for place in readings.places] == ["item", "tolist", "__bool__", "cpu"]
    assert all(place.endswith("test_the_count_of_waits_sees_each_kind_of_them") for place in readings.places)


# Two documents in the first row; in the second one document, then padding.
POSITIONS = torch.tensor([[0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 0, 1]])
IDS = torch.arange(12).view(2, 6)


def tiny_model() -> Any:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=32)).eval()


@pytest.mark.parametrize("positions", [POSITIONS, POSITIONS[:1, :3].expand(2, -1), None], ids=["packed", "one", "none"])
def test_a_forward_pass_without_the_checks_gives_the_same_logits(positions: Any) -> None:
    model = tiny_model()
    inputs = {"input_ids": IDS if positions is None else IDS[:, : positions.shape[1]], "position_ids": positions}
    checks = WithoutMaskChecks(packed=positions is not None)
    usual = model(**inputs, use_cache=False).logits
    for _ in range(2):
        with checks(), OperationCounter() as operations:
            logits = model(**inputs, use_cache=False).logits
        torch.testing.assert_close(logits, usual, rtol=0, atol=0 if positions is POSITIONS else 1e-6)
    assert operations.waiting == []
    assert torch.equal(model(**inputs, use_cache=False).logits, usual)  # the checks are back


def test_the_numbers_of_documents_are_those_of_transformers() -> None:
    expected = masking_utils.find_packed_sequence_indices(POSITIONS)
    assert expected is not None
    assert torch.equal(document_numbers(POSITIONS), expected)


def test_a_model_that_finds_documents_in_rows_that_are_not_packed_keeps_its_check() -> None:
    checks, find = WithoutMaskChecks(packed=False), masking_utils.find_packed_sequence_indices
    for positions in (POSITIONS, POSITIONS):
        with checks():
            found = masking_utils.find_packed_sequence_indices(positions)
        assert found is not None
    assert masking_utils.find_packed_sequence_indices is find
