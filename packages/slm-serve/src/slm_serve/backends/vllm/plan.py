"""From settings to the vLLM engines that serve them: which weights each reads, how large its cache is. No vLLM here.

An engine of vLLM holds one set of weights, and any number of LoRA adapters that it loads itself. What has to be
merged is other weights: each such adapter gets a further engine, with the weights and a cache of its own.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerBase

from slm_adapters import BaseLocation as Base
from slm_adapters import ModelFolder as Folder
from slm_adapters import as_adapter_error as explained
from slm_adapters import common_base
from slm_adapters import load_tokenizer as tokenizer_of
from slm_adapters import probe_base as asked
from slm_adapters import read_adapter_folder as read_adapter
from slm_adapters import read_model_folder as read_folder
from slm_serve.backends.loading import names
from slm_serve.backends.merged_models import default_cache, merged_model
from slm_serve.backends.protocol import Served
from slm_serve.backends.vllm.lora_support import VLLMChoice, allowed_rank, choose
from slm_serve.errors import StartError
from slm_serve.settings import Settings

BLOCK = 128  # tokens of a block, as vLLM has them on a CPU; fewer elsewhere
FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]  # of a repository: no pickles


@dataclass(frozen=True)
class EnginePlan:
    """An engine: it reads ``folder``, and answers for ``model``, by name, and for each adapter of ``loras``, whose
    folders it has by name."""

    folder: str
    model: str
    loras: Mapping[str, str]
    rank: int = 0  # of the largest LoRA


@dataclass(frozen=True)
class Plan:
    """All engines. ``positions`` tokens are a prompt and its answer at most; one of ``ends`` ends a text."""

    engines: tuple[EnginePlan, ...]
    served: Mapping[str, Served]
    choices: Mapping[str, VLLMChoice]
    tokenizer: PreTrainedTokenizerBase
    positions: int
    vocabulary: int
    ends: frozenset[int]
    cache_bytes: int  # keys and values of each engine


def plan(settings: Settings) -> Plan:
    """Looks at the files, and merges what has to be. Raises ValueError, one sentence, for what does not fit."""
    if settings.int8 is not None:
        raise StartError("--int8 is of slm-kv's engine; leave it out with --backend vllm")
    adapters = {name: read_adapter(path) for name, path in settings.adapters.items()}
    base = asked(common_base(settings.model_path, list(adapters.values())))
    tokenizer = tokenizer_of(base, next(iter(adapters.values()), None))
    folder = _folder(base)
    config: Any = AutoConfig.from_pretrained(folder.path, trust_remote_code=False)
    choices = {name: _choice(config, adapter) for name, adapter in adapters.items()}
    weights = {name: "unmerged" if choice.way == "lora" else "merged" for name, choice in choices.items()}
    served = names(settings, base.name, weights)
    positions = min(config.max_position_embeddings, settings.page_size * settings.max_pages)
    return Plan(
        _engines(settings, folder, adapters, choices, served),
        served,
        choices,
        tokenizer,
        positions,
        config.vocab_size,
        _ends(folder.path, config, tokenizer),
        cache_bytes(config, settings),
    )


def cache_bytes(config: Any, settings: Settings) -> int:
    """Of the pages that were asked for, in whole blocks, and the one that vLLM keeps for itself."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    itemsize: int = getattr(torch, settings.dtype).itemsize
    blocks = -(-settings.page_size * settings.max_pages // BLOCK) + 1
    return blocks * BLOCK * 2 * config.num_hidden_layers * heads * width * itemsize


def engine_arguments(planned: Plan, one: EnginePlan, settings: Settings, device: str) -> dict[str, Any]:
    """Arguments for vLLM's AsyncEngineArgs. VLLM_CPU_KVCACHE_SPACE, where it is set, wins over the pages.

    On a CPU, vLLM 0.32 lays the LoRA in its last slot over requests without one that share a step with a request that
    has one (its pull requests 48421 and 49656): there a slot more stays empty, which does nothing.
    """
    found: dict[str, Any] = {
        "model": one.folder,
        "skip_tokenizer_init": True,
        "load_format": "safetensors",
        "trust_remote_code": False,
        "dtype": settings.dtype,
        "max_model_len": planned.positions,
        "max_num_seqs": settings.max_sequences,
        "max_num_batched_tokens": max(settings.max_step_tokens, settings.max_sequences),
        "kv_cache_memory_bytes": planned.cache_bytes,
        "enforce_eager": device == "cpu",
        "seed": secrets.randbits(31),  # requests without a seed of their own
        "disable_log_stats": True,
    }
    if one.loras:
        slots = len(one.loras) + (device == "cpu")
        found |= {"enable_lora": True, "max_loras": slots, "max_lora_rank": allowed_rank(one.rank)}
    return found


def summary(planned: Plan, settings: Settings, version: str, device: str) -> str:
    """For people: what runs, and why each adapter is served in its way."""
    count = len(planned.engines)
    engines = "one engine" if count == 1 else f"{count} engines, each with weights and a cache of its own"
    lines = [
        f"model: vLLM {version} on {device}, {settings.dtype}, {engines}",
        f"cache: {planned.cache_bytes / 1e6:.1f} MB an engine, {planned.positions:,} tokens a text at most",
    ]
    for name, choice in planned.choices.items():
        how = "loaded by vLLM" if choice.way == "lora" else "merged first, in an engine of its own"
        lines.append(f"{name}: {how}: {'; '.join(choice.reasons)}")
    return "\n".join(lines)


def set_defaults() -> None:
    """vLLM is told of this by the environment alone, before it is imported; what the user set there stays."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")


def share_cores(threads: int | None, engines: int) -> None:
    """Left alone, vLLM ties each engine to the same cores of a CPU, and takes as many threads as it likes."""
    if threads or engines > 1:
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)


def _folder(base: Base) -> Folder:
    """Of a base on the hub, that in the cache of the hub's own library."""
    if base.folder:
        return replace(base.folder, path=base.folder.path.resolve())
    with explained(f"the model {base.name}", base.advice, base.trouble):
        offline = base.trouble is not None
        found = snapshot_download(base.location, revision=base.revision, local_files_only=offline, allow_patterns=FILES)
    return read_folder(found)


def _choice(config: Any, adapter: Folder) -> VLLMChoice:
    architecture = (config.architectures or [type(config).__name__])[0]
    return choose(architecture, adapter.config, adapter.tensors, four_bit=adapter.four_bit)


def _engines(
    settings: Settings,
    base: Folder,
    adapters: Mapping[str, Folder],
    choices: Mapping[str, VLLMChoice],
    served: Mapping[str, Served],
) -> tuple[EnginePlan, ...]:
    name = next(one.name for one in served.values() if one.kind == "base")
    loras = {name: str(adapters[name].path.resolve()) for name, choice in choices.items() if choice.way == "lora"}
    rank = max((choice.rank for choice in choices.values()), default=0)
    cache = Path(settings.merged_path) if settings.merged_path else default_cache()
    first = EnginePlan(str(base.path), name, loras, rank)
    merged = [name for name, choice in choices.items() if choice.way == "merged"]
    further = [EnginePlan(str(merged_model(base, adapters[name], cache).folder), name, {}) for name in merged]
    return (first, *further)


def _ends(folder: Path, config: Any, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """As slm_kv has them: the model's own, else the tokenizer's."""
    if (folder / "generation_config.json").is_file():
        settings = GenerationConfig.from_pretrained(folder)
    else:
        settings = GenerationConfig.from_model_config(config)
    ends: Any = settings.eos_token_id if settings.eos_token_id is not None else tokenizer.eos_token_id
    return frozenset([ends] if isinstance(ends, int) else ends or [])
