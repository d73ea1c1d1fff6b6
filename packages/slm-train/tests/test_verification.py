"""Packing and causality are verified on the loaded model, by what it computes and not by its name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from slm_adapters import find_config_fault
from slm_train import find_causality_fault, find_packing_fault
from slm_train.verification.batches import find_batch_fault

TOKENS = {"vocab_size": 128, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 128} | TOKENS
LLAMA = SMALL | {"intermediate_size": 48, "num_key_value_heads": 1}
EXPERTS = LLAMA | {"num_local_experts": 4, "num_experts_per_tok": 2}
CHUNKED = EXPERTS | {
    "head_dim": 16,
    "attention_chunk_size": 24,
    "intermediate_size_mlp": 48,
    "attn_temperature_tuning": False,
}

LONGROPE = LLAMA | {
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 8,
        "long_factor": [1.0 + 0.7 * index for index in range(8)],
        "original_max_position_embeddings": 24,
        "factor": 8.0,
    },
    "original_max_position_embeddings": 24,
}

KEEPS_APART: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128, **TOKENS}),
    "llama": ("llama", LLAMA),
    "window": ("mistral", LLAMA | {"sliding_window": 12}),
    "alternating windows": ("gemma2", LLAMA | {"head_dim": 16, "sliding_window": 12}),
    "local attention": ("gpt_neo", {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "window_size": 12,
                                    "attention_types": [[["global", "local"], 1]], **TOKENS}),
    "experts": ("mixtral", EXPERTS),
}  # fmt: skip
MIXES_UP: dict[str, tuple[str, dict[str, Any]]] = {
    "mask without positions": ("opt", SMALL | {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "alibi": ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 2, **TOKENS}),
    "no positions": ("mpt", {"d_model": 32, "n_heads": 2, "n_layers": 2, "max_seq_len": 128, **TOKENS}),
    "state": ("mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "time_step_rank": 4, **TOKENS}),
    "convolution": ("lfm2", LLAMA | {"layer_types": ["conv", "full_attention"], "conv_L_cache": 3,
                                     "block_auto_adjust_ff_dim": False}),
    "sinks": ("gpt_oss", EXPERTS | {"head_dim": 16, "sliding_window": 12}),
}  # fmt: skip


def new_model(kind: str, settings: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings), dtype=torch.float32)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", KEEPS_APART)
def test_models_that_build_their_masks_from_positions_keep_packed_documents_apart(
    name: str, autocast: torch.dtype | None
) -> None:
    assert find_packing_fault(new_model(*KEEPS_APART[name]), 48, autocast=autocast) is None


@pytest.mark.parametrize("name", MIXES_UP)
def test_models_in_which_packed_documents_influence_each_other_are_found_with_new_weights(name: str) -> None:
    fault = find_packing_fault(new_model(*MIXES_UP[name]), 48)
    assert fault is not None
    assert type(new_model(*MIXES_UP[name])).__name__ in fault


@pytest.mark.parametrize(("block_size", "has_fault"), [(24, False), (48, True)])
def test_chunks_of_attention_count_only_in_rows_that_are_longer(block_size: int, has_fault: bool) -> None:
    model = new_model("llama4_text", CHUNKED)
    assert (find_packing_fault(model, block_size) is not None) is has_fault


@pytest.mark.parametrize(("block_size", "has_fault"), [(24, False), (48, True)])
def test_rows_beyond_the_context_before_rotary_scaling_change_the_others_of_their_batch(
    block_size: int, has_fault: bool
) -> None:
    model = new_model("phi3", LONGROPE | {"sliding_window": None})
    with torch.no_grad():  # scaling shows where scores differ
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                weight.mul_(4 if "embed" not in name else 20)
    fault = find_batch_fault(model, block_size)
    assert (fault is not None) is has_fault
    assert fault is None or "give a --block_size of at most 24" in fault
    assert (find_packing_fault(model, block_size) is not None) is has_fault


@pytest.mark.parametrize("name", KEEPS_APART | MIXES_UP)
def test_rows_of_a_batch_do_not_depend_on_each_other_in_other_models(name: str) -> None:
    assert find_batch_fault(new_model(*(KEEPS_APART | MIXES_UP)[name]), 48) is None


def test_output_projections_of_zero_do_not_hide_a_leak() -> None:
    model = new_model(*MIXES_UP["mask without positions"])
    with torch.no_grad():
        for layer in model.model.decoder.layers:
            layer.self_attn.out_proj.weight.zero_()
    assert find_packing_fault(model, 48) is not None
    assert not model.model.decoder.layers[0].self_attn.out_proj.weight.any()


def test_an_adapter_around_the_model_is_seen_through() -> None:
    def adapted(kind: str, settings: dict[str, Any]) -> Any:
        return get_peft_model(new_model(kind, settings), LoraConfig(target_modules=["q_proj"], lora_dropout=0.5))

    assert find_packing_fault(adapted(*KEEPS_APART["llama"]), 48) is None
    fault = find_packing_fault(adapted(*MIXES_UP["mask without positions"]), 48)
    assert fault is not None
    assert "OPTForCausalLM" in fault


@pytest.mark.parametrize("block_size", [2, 3, 7, 16, 17])
def test_any_block_size_can_be_verified(block_size: int) -> None:
    assert find_packing_fault(new_model(*KEEPS_APART["llama"]), block_size) is None
    assert find_packing_fault(new_model(*MIXES_UP["mask without positions"]), block_size) is not None


def test_the_model_and_the_random_generator_are_left_as_they_were() -> None:
    model: PreTrainedModel = new_model(*KEEPS_APART["gpt2"])
    model.train()
    model.lm_head.eval()
    modes = [module.training for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    before = torch.get_rng_state()
    find_packing_fault(model, 48)
    find_causality_fault(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", KEEPS_APART | MIXES_UP)
def test_causal_models_are_recognised_whatever_their_packing(name: str) -> None:
    model = new_model(*(KEEPS_APART | MIXES_UP)[name])
    assert find_causality_fault(model, autocast=torch.bfloat16) is None


@pytest.mark.parametrize("kind", ["roberta", "bert"])
@pytest.mark.parametrize("is_decoder", [True, False])
def test_a_model_whose_earlier_logits_see_later_tokens_is_not_causal(kind: str, is_decoder: bool) -> None:
    model = new_model(kind, SMALL | {"intermediate_size": 48, "is_decoder": is_decoder})
    fault = find_causality_fault(model)
    assert (fault is None) is is_decoder
    assert fault is None or "is not a causal language model: earlier logits change with later tokens" in fault


@pytest.mark.parametrize(("kind", "reason"), [("t5", "encoder"), ("bart", "encoder"), ("albert", "no such class")])
def test_a_configuration_without_a_causal_language_model_is_refused(kind: str, reason: str) -> None:
    fault = find_config_fault(AutoConfig.for_model(kind))
    assert fault is not None
    assert f"{kind} is not a causal language model" in fault
    assert reason in fault
