"""The loss of an evaluation batch equals that of whole logits, with less memory, also where logits are changed."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM

import slm_train.losses.evaluation_loss as evaluation_loss
from slm_data import IGNORE_INDEX
from slm_testing.zoo.models import build
from slm_train.losses.evaluation_loss import EvaluationLoss, _summed_nll
from slm_train.losses.fused_loss import FusedLoss
from slm_train.reports.live_tensors import LiveTensors

CHANGED_LOGITS = ("gemma2", "granite", "cohere")  # capped, divided, multiplied
VOCABULARY, ROWS, TOKENS = 20_000, 4, 48
LARGE = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
LARGE |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "bos_token_id": 0, "eos_token_id": 1}


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of a few tokens, and groups of two rows, of models with 320 tokens."""
    monkeypatch.setattr(evaluation_loss, "CACHE_BYTES", 3 * 320 * 4)
    monkeypatch.setattr(evaluation_loss, "MAX_LOGIT_BYTES", 2 * 30 * 320 * 4)


def batch() -> tuple[Tensor, Tensor]:
    """Five rows of 30 tokens, of which some have no label."""
    ids = torch.randint(5, 300, (5, 30), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[1, :9] = labels[:, -3:] = labels[4] = IGNORE_INDEX
    return ids, labels


def plain_loss(model: Any, ids: Tensor, labels: Tensor) -> tuple[float, int]:
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].double()
    summed = nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    return float(summed), int((labels[:, 1:] != IGNORE_INDEX).sum())


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gptj", "opt", "mamba", "mixtral", *CHANGED_LOGITS])
@torch.no_grad()
def test_the_loss_is_that_of_whole_logits(name: str, autocast: bool) -> None:
    model, (ids, labels) = build(name), batch()
    loss = EvaluationLoss.fitting(model)
    with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        expected, tokens = plain_loss(model, ids, labels)
        summed, counted = loss(model, {"input_ids": ids}, labels)
    # Products of fewer rows may be added up in another order, which bfloat16 rounds.
    assert float(summed) == pytest.approx(expected, rel=1e-3 if autocast else 1e-6)
    assert counted == tokens
    assert (loss.head is None) == (name in CHANGED_LOGITS)
    assert "forward" not in vars(model.get_output_embeddings())


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("wrapper", [{"target_modules": ["q_proj", "lm_head"]}, {"modules_to_save": ["lm_head"]}])
@torch.no_grad()
def test_a_trained_output_layer_is_applied_in_chunks(wrapper: dict[str, Any]) -> None:
    torch.manual_seed(0)
    settings = {"target_modules": ["q_proj"]} | wrapper
    model: Any = get_peft_model(build("llama"), LoraConfig(init_lora_weights=False, **settings)).eval()
    model.get_base_model().get_output_embeddings().requires_grad_(True)
    for parameter in model.parameters():
        if parameter.shape[0] == 320:
            parameter.add_(torch.randn_like(parameter))
    loss, (ids, labels) = EvaluationLoss.fitting(model), batch()
    assert loss.head is not None
    assert float(loss(model, {"input_ids": ids}, labels)[0]) == pytest.approx(
        plain_loss(model, ids, labels)[0], rel=1e-6
    )


@torch.no_grad()
def test_a_batch_without_labels_has_no_loss() -> None:
    model, (ids, labels) = build("llama"), batch()
    summed, counted = EvaluationLoss.fitting(model)(model, {"input_ids": ids}, torch.full_like(labels, IGNORE_INDEX))
    assert (float(summed), counted) == (0.0, 0)


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_with_a_large_vocabulary_evaluation_takes_no_more_memory_than_training(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama is trained with the fused loss; gemma2, whose logits are capped, is not."""
    for module in ("evaluation_loss", "linear_cross_entropy"):
        monkeypatch.setattr(f"slm_train.losses.{module}.CACHE_BYTES", 8 * VOCABULARY * 4)
    monkeypatch.setattr("slm_train.losses.linear_cross_entropy.MAX_GRADIENT_BYTES", TOKENS * VOCABULARY * 4)
    monkeypatch.setattr("slm_train.losses.evaluation_loss.MAX_LOGIT_BYTES", TOKENS * VOCABULARY * 2)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **LARGE))
    ids = torch.arange(ROWS * TOKENS).reshape(ROWS, TOKENS)
    evaluation, training = evaluation_peak(model, ids), training_peak(model, ids)
    assert evaluation <= training
    assert evaluation < 0.8 * ROWS * TOKENS * VOCABULARY * torch.float32.itemsize  # the whole logits


@torch.no_grad()
def evaluation_peak(model: Any, ids: Tensor) -> int:
    loss = EvaluationLoss.fitting(model.eval())
    with LiveTensors() as live:
        live.ignore(model)
        loss(model, {"input_ids": ids.clone()}, ids.clone())
    return live.highest


def training_peak(model: Any, ids: Tensor) -> int:
    context = FusedLoss.fitting(model.train()) or nullcontext
    with LiveTensors() as live:
        live.ignore(model)
        with context():
            loss = model(input_ids=ids.clone(), labels=ids.clone(), use_cache=False).loss
        loss.backward()
    return live.highest


def test_on_a_gpu_losses_are_computed_in_few_large_parts() -> None:
    with FakeTensorMode():
        logits, targets = torch.empty(2048, 50_257, device="cuda"), torch.zeros(2048, dtype=torch.long, device="cuda")
        assert len(_summed_nll(logits, targets)) == 4  # of 128 MiB, instead of 205 of 2 MiB
