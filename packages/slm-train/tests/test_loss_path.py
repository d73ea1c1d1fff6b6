"""What a model does to its logits and its loss is seen whatever its weights; auxiliary losses count once a step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from slm_data import IGNORE_INDEX
from slm_testing.train.budget_runs import gradients_of, trained, trainer_of
from slm_testing.train.tiny_runs import Tiny
from slm_train.cli import main
from slm_train.losses.auxiliary_loss import AuxiliaryLoss
from slm_train.losses.fused_loss import FusedLoss

TOKENS = {"vocab_size": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2} | TOKENS
SHAPE |= {"num_attention_heads": 2, "num_key_value_heads": 1}
EXPERTS = {"num_experts_per_tok": 2, "router_aux_loss_coef": 0.5}
MIXTURES = {
    "mixtral": SHAPE | EXPERTS | {"num_local_experts": 4},
    "qwen2_moe": SHAPE | EXPERTS | {"num_experts": 4, "moe_intermediate_size": 16,
                                    "shared_expert_intermediate_size": 16},
}  # fmt: skip


def new_model(kind: str, seed: int = 0, **settings: Any) -> Any:
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings), dtype=torch.float32)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("gemma2", {"head_dim": 16, "final_logit_softcapping": 30.0}),
        ("granite", {"logits_scaling": 2.0}),
        ("cohere", {"logit_scale": 0.25}),
        ("granitemoe", {"logits_scaling": 4.0, "num_local_experts": 2}),
        ("mixtral", MIXTURES["mixtral"] | {"output_router_logits": True, "router_aux_loss_coef": 1e-7}),
    ],
)
def test_small_weights_do_not_hide_a_change_of_logits_or_loss(kind: str, settings: dict[str, Any], seed: int) -> None:
    assert FusedLoss.fitting(new_model(kind, seed, **(SHAPE | settings))) is None


@pytest.mark.parametrize("kind", MIXTURES)
def test_experts_without_an_auxiliary_loss_get_the_fused_loss(kind: str) -> None:
    assert FusedLoss.fitting(new_model(kind, **MIXTURES[kind])) is not None


@pytest.mark.parametrize("kind", MIXTURES)
@pytest.mark.parametrize("copies", [2, 5])
def test_a_step_of_equal_micro_batches_has_the_gradient_of_one_of_them(kind: str, copies: int) -> None:
    """Their language losses are divided by the tokens of the step; the auxiliary loss is a mean over tokens."""
    model = new_model(kind, **MIXTURES[kind], output_router_logits=True).eval()
    ids = torch.arange(2, 26).reshape(2, 12)
    predicted = 2 * 11
    once = model(input_ids=ids, labels=ids, num_items_in_batch=torch.tensor(predicted)).loss
    once.backward()
    expected = gradients_of(model)
    model.zero_grad()
    AuxiliaryLoss(model, model)
    total = 0.0
    for _ in range(copies):
        loss = model(input_ids=ids, labels=ids, num_items_in_batch=torch.tensor(copies * predicted)).loss
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(once.item(), rel=1e-6)
    for name, gradient in gradients_of(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-7)


@pytest.fixture(scope="module")
def mixture(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a mixture of experts whose auxiliary loss is large, and the tokenizer of the tiny model."""
    folder = tmp_path_factory.mktemp("mixture") / "model"
    settings = MIXTURES["mixtral"] | {"vocab_size": 400, "output_router_logits": True}
    new_model("mixtral", **settings).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny.model).save_pretrained(folder)
    return folder


def test_the_gradient_of_a_step_has_each_auxiliary_loss_weighted_by_its_tokens(
    tiny: Tiny, mixture: Path, tmp_path: Path
) -> None:
    flags = ("--mode", "baseline", "--model_path", str(mixture), "--max_tokens_per_micro_batch", "64")
    trainer = trainer_of(tiny, tmp_path / "run", *flags)
    batches: list[dict[str, Tensor]] = []
    assert trainer.model is not None
    trainer.model.register_forward_pre_hook(lambda _, __, inputs: batches.append(dict(inputs)), with_kwargs=True)
    gradients = trained(trainer)[0]
    assert len(batches) > 1
    predicted = [int((batch["labels"][:, 1:] != IGNORE_INDEX).sum()) for batch in batches]
    model = AutoModelForCausalLM.from_pretrained(mixture)
    for batch, tokens in zip(batches, predicted, strict=True):
        # With the tokens of the batch itself, the loss is a mean, to which the auxiliary loss is added once.
        loss = model(input_ids=batch["input_ids"], labels=batch["labels"], use_cache=False).loss
        (loss * tokens / sum(predicted)).backward()
    for name, gradient in gradients_of(model).items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-7)


def test_in_the_trainer_flow_accumulation_does_not_multiply_the_auxiliary_loss(
    tiny: Tiny, mixture: Path, tmp_path: Path
) -> None:
    logged = []
    for accumulation in ("1", "4"):
        folder = tmp_path / accumulation
        flags = ("--mode", "baseline", "--model_path", str(mixture), "--max_steps", "1", "--packing", "none")
        batch = ("--per_device_train_batch_size", str(8 // int(accumulation)))
        assert main(tiny.flags(folder, *flags, *batch, "--gradient_accumulation_steps", accumulation)) == 0
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        logged.append(next(line["loss"] for line in lines if "loss" in line))
    # The auxiliary loss is about 1 here (0.5 times 2 experts per token); counted four times it would add 3.
    assert logged[0] == pytest.approx(logged[1], abs=0.05)
