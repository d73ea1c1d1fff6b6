"""Copies of frozen weights in bfloat16 give losses and gradients that are equal to the bit."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import OFTConfig, get_peft_model
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from slm_adapters import ButterflySettings, LoraSettings, add_butterfly, add_lora
from slm_testing.train.budget_runs import dynamic
from slm_testing.train.tiny_runs import Tiny
from slm_train.cli import main
from slm_train.losses.frozen_weights import FrozenWeights, frozen_weights
from slm_train.losses.fused_loss import FusedLoss, loss_context

BFLOAT16_RUN: Any = SimpleNamespace(
    bf16=True,
    fp16=False,
    device=torch.device("cpu"),
    label_smoothing_factor=0,
    use_liger_kernel=False,
    torch_compile=False,
    fsdp=None,
    deepspeed=None,
    gradient_checkpointing=True,  # leaves attention as it is
)


def gpt2() -> Any:
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=32))


def llama() -> Any:
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, attention_bias=True, **shape))


def with_adapter(base: Any, name: str) -> Any:
    if name == "butterfly":
        return add_butterfly(base, ButterflySettings())
    if name == "butterfly_block":
        return add_butterfly(base, ButterflySettings(block_size=8))
    if name == "oft":
        return get_peft_model(base, OFTConfig(task_type="CAUSAL_LM", oft_block_size=8, target_modules="all-linear"))
    return add_lora(base, LoraSettings(r=2, dropout=0.1))


def loss_and_gradients(model: Any, context: Any) -> list[Tensor]:
    torch.manual_seed(1)  # of dropout
    ids = torch.arange(48).view(2, 24)
    with context(), torch.autocast("cpu", torch.bfloat16):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    return [loss, *torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])]


@pytest.mark.parametrize(
    ("base", "adapter"),
    [
        *((base, adapter) for base in (gpt2, llama) for adapter in ("lora", "butterfly", "butterfly_block")),
        (llama, "oft"),  # PEFT's OFT has no Conv1D
    ],
)
def test_losses_and_gradients_are_equal_to_the_bit(base: Any, adapter: str) -> None:
    torch.manual_seed(0)
    model = with_adapter(base(), adapter).train()
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.1)  # new adapters have no effect
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fused = FusedLoss.fitting(model)
    assert fused
    expected = loss_and_gradients(model, fused)
    weights = FrozenWeights(model, torch.bfloat16, [fused.head.weight])
    fused._remove(model.get_base_model())
    context = loss_context(model, BFLOAT16_RUN, enabled=True)
    for _ in range(2):  # converts, then has the copies
        assert all(map(torch.equal, loss_and_gradients(model, context), expected))
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) and after[name].dtype == torch.float32 for name in before)
    assert not any("forward" in vars(layer) for layer in weights.layers)


def frozen_linear() -> Any:
    return nn.Sequential(nn.Linear(8, 4)).requires_grad_(requires_grad=False)


def test_a_weight_is_converted_once_until_it_changes() -> None:
    model = frozen_linear()
    weights = FrozenWeights(model, torch.bfloat16)
    first = weights.copy(model[0].weight)
    assert weights.copy(model[0].weight) is first
    model[0].weight.add_(1)
    assert torch.equal(weights.copy(model[0].weight), model[0].weight.bfloat16())
    model[0].weight.data = torch.ones(4, 8)
    assert torch.equal(weights.copy(model[0].weight), torch.ones(4, 8).bfloat16())


def test_layers_outside_of_autocast_multiply_in_float32() -> None:
    model, x = frozen_linear(), torch.randn(3, 8)
    with FrozenWeights(model, torch.bfloat16)():
        assert torch.equal(model(x), nn.functional.linear(x, model[0].weight, model[0].bias))
    with torch.autocast("cpu", torch.bfloat16), FrozenWeights(model, torch.bfloat16)():
        assert model(x).dtype == torch.bfloat16
        with torch.autocast("cpu", enabled=False):
            assert torch.equal(model(x), nn.functional.linear(x, model[0].weight, model[0].bias))


@pytest.mark.parametrize("change", [{"bf16": False}, {"device": torch.device("mps")}, {"torch_compile": True}])
def test_no_copies_without_autocast_or_where_they_do_not_help(change: dict[str, Any]) -> None:
    run: Any = SimpleNamespace(**vars(BFLOAT16_RUN) | change)
    assert frozen_weights(frozen_linear(), BFLOAT16_RUN)
    assert frozen_weights(frozen_linear(), run) is None
    assert frozen_weights(nn.Linear(8, 4), BFLOAT16_RUN) is None  # trained


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_on_a_gpu_there_are_copies_in_the_precision_of_autocast_if_its_memory_has_space(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, free = torch.device("cuda", 0), {"cuda": 4 * 36 * 2}
    monkeypatch.setattr("slm_train.losses.frozen_weights.free_memory", lambda device: free[device.type])
    precision = {"bf16": dtype == torch.bfloat16, "fp16": dtype == torch.float16}
    run: Any = SimpleNamespace(**vars(BFLOAT16_RUN) | {"device": device} | precision)
    weights = frozen_weights(frozen_linear(), run)
    assert weights
    assert (weights.dtype, weights.device_type) == (dtype, "cuda")
    with torch.autocast("cpu", torch.bfloat16):
        assert not weights.is_autocast()  # that of another device
    free["cuda"] -= 1
    assert frozen_weights(frozen_linear(), run) is None


def test_no_copies_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    short = SimpleNamespace(available=4 * 36 * 2 - 1)  # 36 weights and biases of 2 bytes may take a quarter
    monkeypatch.setattr("psutil.virtual_memory", lambda: short)
    assert frozen_weights(frozen_linear(), BFLOAT16_RUN) is None


@pytest.mark.parametrize("flags", [Tiny.flags, dynamic], ids=["trainer", "dynamic"])
def test_a_run_with_copies_ends_with_the_same_bits(
    tiny: Tiny, tmp_path: Path, flags: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: set[int] = set()
    usual = FrozenWeights.copy
    monkeypatch.setattr(FrozenWeights, "copy", lambda self, weight: copied.add(weight.numel()) or usual(self, weight))
    more = ("--bf16", "true", "--max_steps", "3", "--learning_rate", "1e-2", "--max_eval_tokens", "400")
    assert main(flags(tiny, tmp_path / "copies", *more)) == 0
    assert copied
    monkeypatch.setattr("slm_train.losses.fused_loss.frozen_weights", lambda *_: None)
    assert main(flags(tiny, tmp_path / "none", *more)) == 0
    ours, theirs = (tmp_path / name / "adapter_model.safetensors" for name in ("copies", "none"))
    assert ours.read_bytes() == theirs.read_bytes()
