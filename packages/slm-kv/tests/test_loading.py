"""Loading without other packages of slm."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

from slm_data import sample_base
from slm_kv import loading
from slm_kv.engine.vocabulary import Vocabulary


@pytest.fixture
def base(tmp_path: Path) -> Path:
    sizes = {"vocab_size": 2048, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, eos_token_id=1)).save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(sample_base()).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize(("recorded", "expected"), [(None, {1}), ([1, 9], {1, 9}), (9, {1, 9})])
def test_a_text_ends_with_the_tokens_that_the_adapter_records(
    recorded: int | list[int] | None, expected: set[int], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LlamaForCausalLM.from_pretrained(base)
    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])).save_pretrained(tmp_path / "a")
    if recorded:
        GenerationConfig(eos_token_id=recorded).save_pretrained(tmp_path / "a")
    monkeypatch.setattr(loading, "installed_loader", lambda: None)
    loaded = loading.load(str(base), str(tmp_path / "a"), dtype=torch.float32, device="cpu")
    assert Vocabulary(loaded.model, loaded.tokenizer).end_ids == expected
