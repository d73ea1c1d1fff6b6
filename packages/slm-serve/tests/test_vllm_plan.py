"""The plan of vLLM's engines for given settings."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import GenerationConfig

from slm_serve import Settings
from slm_serve.backends.vllm.lora_support import LoadDecision
from slm_serve.backends.vllm.plan import EnginePlan, engine_arguments, format_summary, plan_serving
from slm_serve.backends.vllm.sizes import EngineSizes
from slm_serve.errors import StartError
from slm_testing.serve.fake_vllm import END, serving_plan
from slm_testing.serve.small_models import BUTTERFLY, lora_config, save_adapter, save_base

ENGINES = (EnginePlan("folder", "base", {"red": "/red"}, rank=4), EnginePlan("merged", "moth", {}))
DECISIONS = {
    "red": LoadDecision("lora", ("it is plain",), 4),
    "moth": LoadDecision("merged", ("it rotates", "it is old")),
}
PLAN = replace(serving_plan(), engines=ENGINES, decisions=DECISIONS)


CONFIG = SimpleNamespace(
    max_position_embeddings=10_000, num_attention_heads=4, num_key_value_heads=1, hidden_size=128, num_hidden_layers=2
)
TOKEN = 2 * 2 * 1 * 32  # keys and values, layers, heads, head size


def sizes(device: str, **settings: Any) -> EngineSizes:
    return EngineSizes.from_settings(Settings(**settings), CONFIG, device)


def test_the_arguments_of_an_engine_follow_the_settings() -> None:
    given = sizes("cpu", dtype="bfloat16", max_sequences=300, max_step_tokens=256, max_pages=4)
    plan = replace(PLAN, sizes=given)
    arguments = engine_arguments(plan, PLAN.engines[0], "cpu")
    expected = {
        "model": "folder", "dtype": "bfloat16", "max_model_len": 64, "max_num_seqs": 300,
        "max_num_batched_tokens": 300, "kv_cache_memory_bytes": 2 * 128 * TOKEN * 2, "enforce_eager": True,
        "enable_lora": True, "max_loras": 2, "max_lora_rank": 8, "trust_remote_code": False,
        "load_format": "safetensors",
    }  # fmt: skip
    assert expected.items() <= arguments.items()
    assert engine_arguments(plan, PLAN.engines[0], "cuda")["max_loras"] == 1
    assert "enable_lora" not in engine_arguments(plan, PLAN.engines[1], "cuda")


def test_on_a_cpu_the_servers_defaults_are_passed() -> None:
    assert sizes("cpu").arguments(1) == {
        "dtype": "float32", "max_model_len": 8192, "max_num_seqs": 16, "max_num_batched_tokens": 256,
        "kv_cache_memory_bytes": (8192 + 128) * TOKEN * 4,
    }  # fmt: skip


def test_on_a_gpu_only_what_was_given_is_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sizes("cuda").arguments(1) == {"dtype": "auto"}
    assert sizes("cuda", dtype="float16", max_sequences=16).arguments(1) == {"dtype": "float16", "max_num_seqs": 16}
    assert sizes("cuda", weights="bfloat16").arguments(1) == {"dtype": "bfloat16"}
    assert sizes("cuda", max_step_tokens=256).arguments(1) == {"dtype": "auto", "max_num_batched_tokens": 256}
    monkeypatch.setenv("SLM_MAX_PAGES", "512")  # the default, and given nevertheless
    assert sizes("cuda").arguments(1) == {
        "dtype": "auto", "max_model_len": 8192, "kv_cache_memory_bytes": (8192 + 128) * TOKEN * 2,
    }  # fmt: skip


def test_several_engines_on_a_gpu_share_its_memory() -> None:
    plan = replace(PLAN, sizes=sizes("cuda"))
    assert engine_arguments(plan, PLAN.engines[0], "cuda")["gpu_memory_utilization"] == 0.45
    assert "gpu_memory_utilization" not in sizes("cuda", max_pages=4).arguments(2)
    assert "gpu_memory_utilization" not in sizes("cpu").arguments(2)
    assert "as large as vLLM makes it" in format_summary(plan, "0.32.0", "cuda")


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
    plan = plan_serving(settings, "cpu")
    assert [engine.model for engine in plan.engines] == ["base", "moth"]
    assert plan.engines[0] == EnginePlan(str(base), "base", {name: str(folders[name]) for name in ("red", "blue")}, 20)
    assert Path(plan.engines[1].folder).parent == tmp_path / "cache"
    assert {name: model.weights for name, model in plan.served.items()} == {
        "base": "as they are", "red": "unmerged", "moth": "merged", "blue": "unmerged",
    }  # fmt: skip
    assert (plan.sizes.context_length, plan.vocabulary_size, plan.eos_token_ids) == (64, 2048, {END, 7})
    assert plan.tokenizers.keys() == {"base", *folders}
    block = 128 * 2 * 2 * 1 * 32 * 4  # tokens, keys and values, layers, heads, head size, bytes
    assert plan.sizes.cache_bytes == 2 * block


def test_the_pages_limit_the_length_of_a_text() -> None:
    assert plan_serving(Settings(max_pages=3), "cpu").sizes.context_length == 48
    assert plan_serving(Settings(), "cpu").sizes.context_length == 512


def test_quantised_weights_are_rejected() -> None:
    with pytest.raises(StartError, match="--weights q8"):
        plan_serving(Settings(weights="q8"), "cuda")


def test_the_summary_tells_how_each_adapter_is_loaded_and_why() -> None:
    text = format_summary(PLAN, "0.32.0", "cpu")
    assert "2 engines, each with its own weights and cache" in text
    assert "red: loaded by vLLM: it is plain" in text
    assert "moth: merged, in an engine of its own: it rotates; it is old" in text
