"""Which adapters vLLM loads and which are merged. test_vllm_real.py checks the table against vLLM itself."""

from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig

from slm_adapters import ModelFolder, read_model_folder
from slm_serve.backends.vllm.lora_support import (
    ALLOWED_RANKS,
    LORA_LAYERS,
    decide_loading,
    largest_rank,
    max_lora_rank,
)
from slm_testing.serve.small_models import BUTTERFLY, lora_config, save_adapter, save_base

PLAIN: dict[str, Any] = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "bias": "none"}
TENSORS = [f"base_model.model.model.layers.0.self_attn.q_proj.lora_{matrix}.weight" for matrix in "AB"]
LLAMA = "LlamaForCausalLM"


def test_a_plain_lora_is_loaded_by_vllm() -> None:
    decision = decide_loading(LLAMA, PLAIN, TENSORS)
    assert decision.method == "lora"
    assert decision.rank == 8
    assert decision.reasons == ("it is a plain LoRA of rank 8, which vLLM 0.32 loads for LlamaForCausalLM",)


@pytest.mark.parametrize(
    "settings",
    [
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"q_proj": 3}},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": False},
        {"lora_dropout": 0.1, "fan_in_fan_out": True, "layers_to_transform": [0]},
        {"r": 512},
    ],
    ids=str,
)
def test_settings_that_vllm_supports_are_loaded_by_vllm(settings: dict[str, Any]) -> None:
    assert decide_loading(LLAMA, PLAIN | settings, TENSORS).method == "lora"


@pytest.mark.parametrize(
    ("settings", "reason_part"),
    [
        ({"peft_type": "BUTTERFLY"}, "method BUTTERFLY"),
        ({"peft_type": "OFT"}, "method OFT"),
        ({"peft_type": None}, "method None"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias='all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save: lm_head"),
        ({"init_lora_weights": "pissa"}, "'pissa'"),
        ({"r": 513}, "rank 513 is above 512"),
        ({"rank_pattern": {"q_proj": 600}}, "rank 600 is above 512"),
        ({"lora_bias": True}, "lora_bias"),
        ({"use_qalora": True}, "use_qalora"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"target_parameters": ["experts"]}, "target_parameters"),
        ({"a_future_setting": 1}, "a_future_setting"),
    ],
    ids=str,
)
def test_settings_that_vllm_ignores_or_rejects_are_merged(settings: dict[str, Any], reason_part: str) -> None:
    decision = decide_loading(LLAMA, PLAIN | settings, TENSORS)
    assert decision.method == "merged"
    assert any(reason_part in reason for reason in decision.reasons)


def test_no_adapter_of_gpt2_is_loaded_by_vllm() -> None:
    decision = decide_loading("GPT2LMHeadModel", PLAIN, ["transformer.h.0.attn.c_attn.lora_A.weight"])
    assert decision.method == "merged"
    assert decision.reasons == ("vLLM 0.32 has no LoRA for GPT-2 ('GPT2LMHeadModel does not support LoRA yet')",)


def test_an_unknown_architecture_is_merged() -> None:
    (reason,) = decide_loading("NewForCausalLM", PLAIN, TENSORS).reasons
    assert reason == "vLLM 0.32 is not known to load LoRA for NewForCausalLM"


def test_an_adapter_trained_on_four_bit_weights_is_merged() -> None:
    decision = decide_loading(LLAMA, PLAIN, TENSORS, four_bit=True)
    assert decision.method == "merged"
    assert "4-bit" in decision.reasons[0]


@pytest.mark.parametrize(
    ("tensor", "named"),
    [
        ("base_model.model.lm_head.lora_A.weight", "lm_head"),
        ("base_model.model.model.embed_tokens.lora_embedding_A", "embed_tokens.lora_embedding_A"),
        ("base_model.model.model.embed_tokens.weight", "embed_tokens.weight"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector", "q_proj.lora_magnitude_vector"),
    ],
)
def test_layers_and_tensors_that_vllm_may_not_support_are_named(tensor: str, named: str) -> None:
    decision = decide_loading(LLAMA, PLAIN, [*TENSORS, tensor])
    assert decision.method == "merged"
    assert f"it adapts {named}," in decision.reasons[0]


def test_all_reasons_are_given_at_once() -> None:
    decision = decide_loading("GPT2LMHeadModel", PLAIN | {"use_dora": True, "bias": "all"}, [], four_bit=True)
    assert len(decision.reasons) == 4


def test_the_limits_can_be_changed() -> None:
    assert decide_loading("Mine", PLAIN, TENSORS, lora_layers={"Mine": {"q_proj"}}).method == "lora"
    assert decide_loading(LLAMA, PLAIN, TENSORS, max_rank=4).method == "merged"


def test_the_maximum_rank_for_vllm_allows_the_largest_rank() -> None:
    assert largest_rank({"r": 3, "rank_pattern": {"q_proj": 20}}) == 20
    assert [max_lora_rank(rank) for rank in (1, 2, 8, 16, 20, 300, 512)] == [1, 8, 8, 16, 32, 320, 512]
    assert sorted(ALLOWED_RANKS) == list(ALLOWED_RANKS)


def _save(folder: Path, kind: str, config: Any) -> ModelFolder:
    base = save_base(folder / "base", kind)
    return read_model_folder(save_adapter(folder / "adapter", base, config))


def test_an_adapter_as_saved_by_peft_has_no_unknown_setting(tmp_path: Path) -> None:
    adapter = _save(tmp_path, "llama", lora_config(target_modules="all-linear", r=2))
    assert decide_loading(LLAMA, adapter.config, adapter.tensors).method == "lora"
    assert {name.split(".")[-3] for name in adapter.tensors} == LORA_LAYERS[LLAMA]


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("llama", BUTTERFLY),
        ("gpt2", lora_config(target_modules=["c_attn"])),
        ("llama", LoraConfig(r=2, target_modules=["embed_tokens"])),
        ("llama", lora_config(use_dora=True)),
    ],
    ids=["butterfly", "lora-of-gpt2", "lora-of-embeddings", "dora"],
)
def test_an_adapter_that_vllm_cannot_load_is_merged(tmp_path: Path, kind: str, config: Any) -> None:
    adapter = _save(tmp_path, kind, config)
    architecture = {"llama": LLAMA, "gpt2": "GPT2LMHeadModel"}[kind]
    assert decide_loading(architecture, adapter.config, adapter.tensors).method == "merged"
