"""Default targets of models in which a name alone does not say what can be adapted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    JambaConfig,
    JambaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

from slm_adapters import (
    AdapterError,
    ButterflySettings,
    LoraSettings,
    add_butterfly,
    add_lora,
    check_targets,
    default_targets,
)
from slm_testing.adapters.tiny_adapters import assert_close, logits

SIZES = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MLA = {
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}


def _jamba() -> PreTrainedModel:
    layout = {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1}
    return JambaForCausalLM(JambaConfig(**SIZES, **layout, mamba_d_state=4, mamba_dt_rank=4, use_mamba_kernels=False))


def _deepseek() -> PreTrainedModel:
    sizes = SIZES | EXPERTS | MLA | {"num_key_value_heads": 4}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("deepseek_v3", **sizes))


BUILDERS: dict[str, Callable[[], PreTrainedModel]] = {
    "deepseek": _deepseek,  # PEFT takes gate_proj for the experts' 3-d weights, and refuses dropout on them
    "jamba": _jamba,  # dt_proj is read, never called
    "mamba": lambda: MambaForCausalLM(MambaConfig(vocab_size=48, hidden_size=32, num_hidden_layers=2, state_size=4)),
    "qwen2_moe": lambda: Qwen2MoeForCausalLM(  # the gate of the shared expert has one output
        Qwen2MoeConfig(**SIZES, **EXPERTS, shared_expert_intermediate_size=16)
    ),
}
METHODS: dict[str, Callable[[PreTrainedModel], Any]] = {
    "lora": lambda model: add_lora(model, LoraSettings(r=2, dropout=0.1)),
    "butterfly": lambda model: add_butterfly(model, ButterflySettings(preset="quality")),
    "block": lambda model: add_butterfly(model, ButterflySettings(block_size="auto")),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", BUILDERS)
def test_every_adapted_layer_is_trained_and_merged(name: str, method: str, input_ids: Tensor) -> None:
    torch.manual_seed(0)
    adapted = METHODS[method](BUILDERS[name]())
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):  # LoRA's first matrix has a gradient only after the second one has changed
        optimizer.zero_grad()
        adapted(input_ids=input_ids, labels=input_ids, use_cache=False).loss.backward()
        assert [at for at, p in adapted.named_parameters() if p.requires_grad and p.grad is None] == []
        optimizer.step()
    adapted.eval()
    unmerged = logits(adapted, input_ids)
    assert_close(logits(adapted.merge_and_unload(), input_ids), unmerged)


class _Router(nn.Linear):
    """As in PhiMoE and Llama 4: a linear layer that returns its input too."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x


class _Gate(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.router = _Router(width, width)
        self.proj = nn.Sequential(nn.Linear(width, 8), nn.Linear(8, width))
        self.unused = nn.Linear(width, width)
        self.clipped = nn.Linear(width, width)  # as in Gemma 3n

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.router(x)[0].sigmoid()
        mixed: Tensor = self.proj(x)
        mixed = mixed + (x @ self.clipped.weight.clamp(-1, 1).T if self.training else self.clipped(x))
        return gate * mixed


def _llama_with_gates() -> LlamaForCausalLM:
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    for layer in model.model.layers:
        layer.mlp = _Gate(32)
    return model


ATTENTION = ["k_proj", "o_proj", "q_proj", "v_proj"]
PROJECTIONS = [f"model.layers.{block}.mlp.proj.{part}" for part in "01" for block in "01"]


def test_routers_and_unused_layers_are_left_out_and_ambiguous_names_are_full() -> None:
    assert sorted(default_targets(_llama_with_gates())) == sorted([*PROJECTIONS, *ATTENTION])
    assert set(add_lora(_llama_with_gates(), LoraSettings()).targeted_module_names) == {
        *PROJECTIONS,
        *(f"model.layers.{block}.self_attn.{name}" for block in "01" for name in ATTENTION),
    }


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("router", r"router is a _Router, which computes more than a product"),
        ("clipped", r"clipped is not called by the model"),
        ("unused", r"unused is not called by the model"),
        ("layers.0", r"'layers.0' matches no linear layer"),
    ],
)
def test_a_layer_that_cannot_take_an_adapter_is_refused_with_the_reason(target: str, reason: str) -> None:
    with pytest.raises(AdapterError, match=reason):
        check_targets(_llama_with_gates(), [target])


def test_a_layer_that_shares_its_weight_is_left_out() -> None:
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    first, second = (layer.self_attn for layer in model.model.layers)
    second.q_proj.weight = first.q_proj.weight
    assert "q_proj" not in default_targets(model)
    with pytest.raises(AdapterError, match=r"shares its weight with model.layers.1.self_attn.q_proj"):
        add_lora(model, LoraSettings(target_modules=["q_proj"]))


def test_all_linear_stands_for_the_defaults_beside_other_names() -> None:
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    assert check_targets(model, ["all-linear"]) == default_targets(model)
    assert check_targets(model, ["all-linear", "lm_head"]) == [*default_targets(model), "lm_head"]


def test_looking_at_a_model_changes_neither_it_nor_the_random_numbers() -> None:
    model = LlamaForCausalLM(LlamaConfig(**SIZES, attention_dropout=0.5)).train()
    state, random_state = {n: v.clone() for n, v in model.state_dict().items()}, torch.get_rng_state()
    default_targets(model)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
