"""Which engines of vLLM serve what the settings name."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from slm_data import sample_base
from slm_serve import Settings
from slm_serve.backends.vllm.lora_support import VLLMChoice
from slm_serve.backends.vllm.plan import EnginePlan, Plan, engine_arguments, plan, summary
from slm_serve.errors import StartError
from slm_testing.serve.small_models import BUTTERFLY, lora, save_adapter, save_base

POSITIONS, END = 64, 1
TOKENIZER = AutoTokenizer.from_pretrained(sample_base())
ENGINES = (EnginePlan("folder", "base", {"red": "/red"}, rank=4), EnginePlan("merged", "moth", {}))
CHOICES = {"red": VLLMChoice("lora", ("it is plain",), 4), "moth": VLLMChoice("merged", ("it turns", "it is old"))}
PLANNED = Plan(ENGINES, {}, CHOICES, TOKENIZER, POSITIONS, 2048, frozenset([END]), cache_bytes=1000)


def test_an_engine_is_given_what_the_settings_say() -> None:
    settings = Settings(dtype="bfloat16", max_sequences=300, max_step_tokens=256)
    found = engine_arguments(PLANNED, PLANNED.engines[0], settings, "cpu")
    wanted = {
        "model": "folder", "dtype": "bfloat16", "max_model_len": POSITIONS, "max_num_seqs": 300,
        "max_num_batched_tokens": 300, "kv_cache_memory_bytes": 1000, "enforce_eager": True, "enable_lora": True,
        "max_loras": 2, "max_lora_rank": 8, "trust_remote_code": False, "load_format": "safetensors",
    }  # fmt: skip
    assert wanted.items() <= found.items()
    assert engine_arguments(PLANNED, PLANNED.engines[0], settings, "cuda")["max_loras"] == 1
    assert "enable_lora" not in engine_arguments(PLANNED, PLANNED.engines[1], settings, "cuda")


def test_a_plan_has_one_engine_for_loras_and_one_for_each_merged_adapter(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    folders = {
        "red": save_adapter(tmp_path / "red", base, lora()),
        "moth": save_adapter(tmp_path / "moth", base, BUTTERFLY),
        "blue": save_adapter(tmp_path / "blue", base, lora(r=20)),
    }
    named = tuple(f"{name}={folder}" for name, folder in folders.items())
    settings = Settings(model_path=str(base), adapter=named, merged_path=str(tmp_path / "cache"), max_pages=4)
    found = plan(settings)
    assert [engine.model for engine in found.engines] == ["base", "moth"]
    assert found.engines[0] == EnginePlan(str(base), "base", {name: str(folders[name]) for name in ("red", "blue")}, 20)
    assert Path(found.engines[1].folder).parent == tmp_path / "cache"
    assert {name: one.weights for name, one in found.served.items()} == {
        "base": "as they are", "red": "unmerged", "moth": "merged", "blue": "unmerged",
    }  # fmt: skip
    assert (found.positions, found.vocabulary, found.ends) == (64, 2048, frozenset([END]))
    block = 128 * 2 * 2 * 1 * 32 * 4  # tokens, keys and values, layers, heads, width, bytes
    assert found.cache_bytes == 2 * block


def test_the_pages_bound_what_a_text_may_have() -> None:
    assert plan(Settings(max_pages=3)).positions == 48
    assert plan(Settings()).positions == 512


def test_int8_is_of_the_other_backend() -> None:
    with pytest.raises(StartError, match="--int8"):
        plan(Settings(int8="text"))


def test_the_summary_says_how_each_adapter_is_served_and_why() -> None:
    said = summary(PLANNED, Settings(), "0.32.0", "cpu")
    assert "2 engines, each with weights and a cache of its own" in said
    assert "red: loaded by vLLM: it is plain" in said
    assert "moth: merged first, in an engine of its own: it turns; it is old" in said
