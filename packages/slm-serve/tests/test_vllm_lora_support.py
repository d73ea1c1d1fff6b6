"""What vLLM loads by itself, and what is merged first. That it is so of the vLLM at hand: test_vllm_backend.py."""

from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig

from slm_adapters import ModelFolder as Folder
from slm_adapters import read_model_folder as read_folder
from slm_serve.backends.vllm.lora_support import LOADS_LORA, RANKS, allowed_rank, choose, largest_rank
from slm_testing.serve.small_models import BUTTERFLY, lora, save_adapter, save_base

PLAIN: dict[str, Any] = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "bias": "none"}
TENSORS = [
    f"base_model.model.model.layers.0.{name}.lora_{one}.weight" for name in ("self_attn.q_proj",) for one in "AB"
]
LLAMA = "LlamaForCausalLM"


def test_a_plain_lora_is_loaded_by_vllm() -> None:
    found = choose(LLAMA, PLAIN, TENSORS)
    assert found.way == "lora"
    assert found.rank == 8
    assert found.reasons == ("it is a plain LoRA of rank 8, which vLLM 0.32 loads for LlamaForCausalLM",)


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
def test_what_vllm_reads_as_peft_does_is_loaded_by_vllm(settings: dict[str, Any]) -> None:
    assert choose(LLAMA, PLAIN | settings, TENSORS).way == "lora"


@pytest.mark.parametrize(
    ("settings", "said"),
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
        ({"a_setting_of_tomorrow": 1}, "a_setting_of_tomorrow"),
    ],
    ids=str,
)
def test_what_vllm_leaves_out_or_refuses_is_merged(settings: dict[str, Any], said: str) -> None:
    found = choose(LLAMA, PLAIN | settings, TENSORS)
    assert found.way == "merged"
    assert any(said in reason for reason in found.reasons)


def test_no_adapter_of_gpt2_is_loaded_by_vllm() -> None:
    found = choose("GPT2LMHeadModel", PLAIN, ["transformer.h.0.attn.c_attn.lora_A.weight"])
    assert found.way == "merged"
    assert found.reasons == ("vLLM 0.32 has no LoRA for GPT-2 ('GPT2LMHeadModel does not support LoRA yet')",)


def test_an_unknown_architecture_is_merged() -> None:
    (reason,) = choose("NewForCausalLM", PLAIN, TENSORS).reasons
    assert reason == "vLLM 0.32 is not known to load LoRA for NewForCausalLM"


def test_what_was_trained_over_four_bits_is_merged_into_what_it_was_trained_over() -> None:
    found = choose(LLAMA, PLAIN, TENSORS, four_bit=True)
    assert found.way == "merged"
    assert "4-bit" in found.reasons[0]


@pytest.mark.parametrize(
    ("tensor", "named"),
    [
        ("base_model.model.lm_head.lora_A.weight", "lm_head"),
        ("base_model.model.model.embed_tokens.lora_embedding_A", "embed_tokens.lora_embedding_A"),
        ("base_model.model.model.embed_tokens.weight", "embed_tokens.weight"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector", "q_proj.lora_magnitude_vector"),
    ],
)
def test_layers_and_tensors_that_vllm_may_not_take_are_named(tensor: str, named: str) -> None:
    found = choose(LLAMA, PLAIN, [*TENSORS, tensor])
    assert found.way == "merged"
    assert f"it adapts {named}," in found.reasons[0]


def test_all_reasons_are_told_at_once() -> None:
    found = choose("GPT2LMHeadModel", PLAIN | {"use_dora": True, "bias": "all"}, [], four_bit=True)
    assert len(found.reasons) == 4


def test_the_limits_can_be_given() -> None:
    assert choose("Mine", PLAIN, TENSORS, loads_lora={"Mine": {"q_proj"}}).way == "lora"
    assert choose(LLAMA, PLAIN, TENSORS, most_rank=4).way == "merged"


def test_the_rank_that_vllm_is_told_takes_the_largest() -> None:
    assert largest_rank({"r": 3, "rank_pattern": {"q_proj": 20}}) == 20
    assert [allowed_rank(rank) for rank in (1, 2, 8, 16, 20, 300, 512)] == [1, 8, 8, 16, 32, 320, 512]
    assert sorted(RANKS) == list(RANKS)


def _saved(folder: Path, kind: str, config: Any) -> Folder:
    base = save_base(folder / "base", kind)
    return read_folder(save_adapter(folder / "adapter", base, config))


def test_an_adapter_as_peft_saves_it_has_nothing_unknown(tmp_path: Path) -> None:
    adapter = _saved(tmp_path, "llama", lora(target_modules="all-linear", r=2))
    assert choose(LLAMA, adapter.config, adapter.tensors).way == "lora"
    assert {name.split(".")[-3] for name in adapter.tensors} == LOADS_LORA[LLAMA]


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("llama", BUTTERFLY),
        ("gpt2", lora(target_modules=["c_attn"])),
        ("llama", LoraConfig(r=2, target_modules=["embed_tokens"])),
        ("llama", lora(use_dora=True)),
    ],
    ids=["butterfly", "lora-of-gpt2", "lora-of-embeddings", "dora"],
)
def test_an_adapter_that_vllm_cannot_load_is_merged(tmp_path: Path, kind: str, config: Any) -> None:
    adapter = _saved(tmp_path, kind, config)
    architecture = {"llama": LLAMA, "gpt2": "GPT2LMHeadModel"}[kind]
    assert choose(architecture, adapter.config, adapter.tensors).way == "merged"
