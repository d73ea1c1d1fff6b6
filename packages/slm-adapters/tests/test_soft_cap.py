"""Soft-capped attention: a loaded Gemma 2 computes what its config says, not transformers' default without the cap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma2Config

from slm_adapters import load
from slm_data import sample_base


@pytest.fixture
def gemma2_folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(sample_base())
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        attn_logit_softcapping=2.0,
    )
    model: Any = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for layer in model.model.layers:  # scores so large that the cap matters
            layer.self_attn.q_proj.weight.mul_(20)
            layer.self_attn.k_proj.weight.mul_(20)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


@torch.no_grad()
def logits_of(model: Any) -> torch.Tensor:
    logits: torch.Tensor = model(torch.arange(10, 22)[None]).logits
    return logits


def test_a_loaded_model_applies_the_soft_cap_of_its_config(gemma2_folder: Path) -> None:
    def plain(implementation: str) -> Any:
        return AutoModelForCausalLM.from_pretrained(gemma2_folder, attn_implementation=implementation)

    expected, uncapped = logits_of(plain("eager")), logits_of(plain("sdpa"))
    assert (expected - uncapped).abs().max() > 1e-3  # transformers' default does not apply it
    assert torch.equal(logits_of(load(gemma2_folder).model), expected)
