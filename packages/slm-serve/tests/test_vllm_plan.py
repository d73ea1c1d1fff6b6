"""The plan of vLLM's engines for given settings."""

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import GenerationConfig

from slm_serve import Settings
from slm_serve.backends.vllm.lora_support import LoadDecision
from slm_serve.backends.vllm.plan import EnginePlan, engine_arguments, format_summary, plan_serving
from slm_serve.errors import StartError
from slm_testing.serve.fake_vllm import CONTEXT_LENGTH, END, serving_plan
from slm_testing.serve.small_models import BUTTERFLY, lora_config, save_adapter, save_base

ENGINES = (EnginePlan("folder", "base", {"red": "/red"}, rank=4), EnginePlan("merged", "moth", {}))
DECISIONS = {
    "red": LoadDecision("lora", ("it is plain",), 4),
    "moth": LoadDecision("merged", ("it rotates", "it is old")),
}
PLAN = replace(serving_plan(), engines=ENGINES, decisions=DECISIONS)


def test_the_arguments_of_an_engine_follow_the_settings() -> None:
    settings = Settings(dtype="bfloat16", max_sequences=300, max_step_tokens=256)
    arguments = engine_arguments(PLAN, PLAN.engines[0], settings, "cpu")
    expected = {
        "model": "folder", "dtype": "bfloat16", "max_model_len": CONTEXT_LENGTH, "max_num_seqs": 300,
        "max_num_batched_tokens": 300, "kv_cache_memory_bytes": 1000, "enforce_eager": True, "enable_lora": True,
        "max_loras": 2, "max_lora_rank": 8, "trust_remote_code": False, "load_format": "safetensors",
    }  # fmt: skip
    assert expected.items() <= arguments.items()
    assert engine_arguments(PLAN, PLAN.engines[0], settings, "cuda")["max_loras"] == 1
    assert "enable_lora" not in engine_arguments(PLAN, PLAN.engines[1], settings, "cuda")


def test_a_plan_has_one_engine_for_loras_and_one_for_each_merged_adapter(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    folders = {
        "red": save_adapter(tmp_path / "red", base, lora_config()),
        "moth": save_adapter(tmp_path / "moth", base, BUTTERFLY),
        "blue": save_adapter(tmp_path / "blue", base, lora_config(r=20)),
    }
    GenerationConfig(eos_token_id=[END, 7]).save_pretrained(folders["blue"])  # as slm-train writes it for a chat
    named = tuple(f"{name}={folder}" for name, folder in folders.items())
    settings = Settings(model_path=str(base), adapter=named, merged_path=str(tmp_path / "cache"), max_pages=4)
    plan = plan_serving(settings)
    assert [engine.model for engine in plan.engines] == ["base", "moth"]
    assert plan.engines[0] == EnginePlan(str(base), "base", {name: str(folders[name]) for name in ("red", "blue")}, 20)
    assert Path(plan.engines[1].folder).parent == tmp_path / "cache"
    assert {name: model.weights for name, model in plan.served.items()} == {
        "base": "as they are", "red": "unmerged", "moth": "merged", "blue": "unmerged",
    }  # fmt: skip
    assert (plan.context_length, plan.vocabulary_size, plan.eos_token_ids) == (64, 2048, {END, 7})
    assert plan.tokenizers.keys() == {"base", *folders}
    block = 128 * 2 * 2 * 1 * 32 * 4  # tokens, keys and values, layers, heads, head size, bytes
    assert plan.cache_bytes == 2 * block


def test_the_pages_limit_the_length_of_a_text() -> None:
    assert plan_serving(Settings(max_pages=3)).context_length == 48
    assert plan_serving(Settings()).context_length == 512


def test_quantised_weights_are_rejected() -> None:
    with pytest.raises(StartError, match="--weights q8"):
        plan_serving(Settings(weights="q8"))


def test_the_summary_tells_how_each_adapter_is_loaded_and_why() -> None:
    text = format_summary(PLAN, Settings(), "0.32.0", "cpu")
    assert "2 engines, each with its own weights and cache" in text
    assert "red: loaded by vLLM: it is plain" in text
    assert "moth: merged, in an engine of its own: it rotates; it is old" in text
