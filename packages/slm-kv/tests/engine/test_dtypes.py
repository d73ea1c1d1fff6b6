"""Requests succeed for each dtype of the weights, with and without tied embeddings, adapters and packing."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from slm_kv import Engine
from slm_kv.linear import packing
from slm_testing.kv.tiny_models import greedy_params, greedy_tokens, make_model, random_prompts


def adapter_config(adapter: str) -> Any:
    if adapter == "lora":
        return LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    slm_adapters = pytest.importorskip("slm_adapters")
    return slm_adapters.ButterflyConfig(target_modules=["q_proj", "down_proj"], init_weights=False)


def build(dtype: torch.dtype, tied: bool, adapter: str | None) -> Any:
    torch.manual_seed(0)
    model = make_model("tied_llama" if tied else "llama").to(dtype)
    if adapter is None:
        return model
    adapted: PeftModel = get_peft_model(model, adapter_config(adapter))
    return adapted.eval()


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "plain"])
@pytest.mark.parametrize("adapter", [None, "lora", "butterfly"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_requests_succeed_and_pages_have_the_dtype_of_the_keys(
    dtype: torch.dtype, tied: bool, adapter: str | None, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a CPU without bfloat16 arithmetic, where a packed head also replaces the tied embedding. The first parameter
    # that remains is then the adapter's, in float32.
    monkeypatch.setattr(packing, "onednn_supports", lambda layer: layer.weight.dtype is torch.float32)
    model = build(dtype, tied, adapter)
    prompts = random_prompts(3, seed=2)
    expected = [greedy_tokens(model, prompt, 6) for prompt in prompts]
    with Engine(model, page_size=4, max_pages=24, packed=packed) as engine:
        handles = engine.generate(prompts, greedy_params(6))
        assert engine.storage.dtype is dtype
    assert [(handle.error, handle.finish_reason) for handle in handles] == [(None, "length")] * 3
    if dtype is torch.float32:
        assert [handle.token_ids for handle in handles] == expected
