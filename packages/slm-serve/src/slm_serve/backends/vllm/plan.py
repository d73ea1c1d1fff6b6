"""The plan of vLLM's engines for given settings: the weights of each engine, its adapters and the size of its cache.

A vLLM engine has one set of weights and any number of LoRA adapters that vLLM loads itself. An adapter that has to be
merged changes the weights, so each merged adapter gets an engine with its own weights and cache. vLLM is not
imported here.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerBase

from slm_adapters import (
    AdapterLoader,
    BaseLocation,
    ModelFolder,
    as_adapter_error,
    common_base,
    load_tokenizers,
    probe_base,
    read_adapter_folder,
    read_model_folder,
    recorded_end_ids,
)
from slm_serve.backends.merged_models import default_cache_dir, merged_model
from slm_serve.backends.served_models import ServedModel, served_models, served_tokenizers
from slm_serve.backends.vllm.lora_support import LORA_LAYERS, LoadDecision, decide_loading, max_lora_rank
from slm_serve.backends.vllm.sizes import EngineSizes
from slm_serve.errors import StartError
from slm_serve.settings import Settings

MAX_LATER_LORAS, MAX_LATER_RANK = 8, 64  # LoRA adapters that can be loaded later: vLLM allocates memory for them
DOWNLOADED_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]  # no pickles, which can run code


@dataclass(frozen=True)
class EnginePlan:
    """One engine of vLLM.

    Args:
        folder: the weights that it loads.
        model: served name of these weights.
        loras: folders of the LoRA adapters that vLLM loads, by served name.
        rank: the largest rank of the LoRA adapters.
        free_loras: how many LoRA adapters can be loaded later.
    """

    folder: str
    model: str
    loras: Mapping[str, str]
    rank: int = 0
    free_loras: int = 0


@dataclass(frozen=True)
class ServingPlan:
    """All engines, and the values that they share.

    Args:
        served: served models by name, the default first.
        decisions: how each adapter is loaded, and why.
        tokenizer: decodes the texts of all models.
        tokenizers: as in the backend.
        eos_token_ids: tokens that end a text.
        sizes: of each engine.
        architecture: of the base, as in its config.json.
        loader: reads further adapters.
    """

    engines: tuple[EnginePlan, ...]
    served: Mapping[str, ServedModel]
    decisions: Mapping[str, LoadDecision]
    tokenizer: PreTrainedTokenizerBase
    tokenizers: Mapping[str, PreTrainedTokenizerBase]
    vocabulary_size: int
    eos_token_ids: frozenset[int]
    sizes: EngineSizes
    architecture: str
    loader: AdapterLoader


def plan_serving(settings: Settings, device: str) -> ServingPlan:
    """Plan the engines for ``settings`` on ``device`` (cpu or cuda), and merge the adapters that vLLM cannot load.

    Raises ValueError, one sentence, for settings, models and adapters that do not fit.
    """
    if settings.weights in ("q8", "q4"):
        raise StartError(f"--weights {settings.weights} needs --backend engine; leave it out with --backend vllm")
    adapters = {name: read_adapter_folder(path) for name, path in settings.adapters.items()}
    base = probe_base(common_base(settings.model_path, list(adapters.values())))
    tokenizers = load_tokenizers(base, adapters)
    tokenizer = tokenizers.shared
    folder = _base_folder(base)
    config: Any = AutoConfig.from_pretrained(folder.path, trust_remote_code=False)
    architecture = (config.architectures or [type(config).__name__])[0]
    decisions = {name: _decide(architecture, adapter) for name, adapter in adapters.items()}
    weights = {name: "unmerged" if decision.method == "lora" else "merged" for name, decision in decisions.items()}
    served = served_models(settings, base.name, weights)
    return ServingPlan(
        engines=_plan_engines(settings, folder, adapters, decisions, served, architecture),
        served=served,
        decisions=decisions,
        tokenizer=tokenizer,
        tokenizers=served_tokenizers(served, tokenizers),
        vocabulary_size=config.vocab_size,
        eos_token_ids=_eos_token_ids(folder.path, config, tokenizer).union(*map(recorded_end_ids, adapters.values())),
        sizes=EngineSizes.from_settings(settings, config, device),
        architecture=architecture,
        loader=AdapterLoader(base, tokenizers, four_bit=False),
    )


def tokenizer_folder(plan: ServingPlan) -> str | None:
    """Return the folder of the tokenizer that vLLM loads, for grammars; None if the base has no fast tokenizer."""
    folder = plan.engines[0].folder
    return folder if Path(folder, "tokenizer.json").is_file() else None


def engine_arguments(plan: ServingPlan, engine: EnginePlan, device: str) -> dict[str, Any]:
    """Return the arguments of vLLM's AsyncEngineArgs for ``engine``.

    The variable VLLM_CPU_KVCACHE_SPACE, if set, takes precedence over the number of pages.
    """
    arguments: dict[str, Any] = {
        "model": engine.folder,
        "skip_tokenizer_init": tokenizer_folder(plan) is None,
        "tokenizer": tokenizer_folder(plan),
        "load_format": "safetensors",
        "trust_remote_code": False,
        **plan.sizes.arguments(len(plan.engines)),
        "enforce_eager": device == "cpu",
        "seed": secrets.randbits(31),  # for requests without a seed
        "disable_log_stats": True,
    }
    if engine.loras or engine.free_loras:
        # Workaround for vLLM 0.32 on a CPU (its pull requests 48421 and 49656): in a step that mixes requests with and
        # without LoRA, the LoRA in the last slot is applied to the latter too. So the last slot is kept empty.
        slots = len(engine.loras) + engine.free_loras + (device == "cpu")
        arguments |= {"enable_lora": True, "max_loras": slots, "max_lora_rank": max_lora_rank(engine.rank)}
    return arguments


def format_summary(plan: ServingPlan, version: str, device: str) -> str:
    """Return the start-up message: engines, cache size, and how each adapter is loaded and why."""
    count = len(plan.engines)
    engines = "one engine" if count == 1 else f"{count} engines, each with its own weights and cache"
    dtype = "dtype as vLLM chooses" if plan.sizes.dtype == "auto" else plan.sizes.dtype
    lines = [
        f"model: vLLM {version} on {device}, {dtype}, {engines}",
        plan.sizes.describe(),
    ]
    for name, decision in plan.decisions.items():
        method = "loaded by vLLM" if decision.method == "lora" else "merged, in an engine of its own"
        lines.append(f"{name}: {method}: {'; '.join(decision.reasons)}")
    return "\n".join(lines)


def _base_folder(base: BaseLocation) -> ModelFolder:
    """Return the folder of the base; a base on the hub is downloaded into the hub's cache."""
    if base.folder:
        return replace(base.folder, path=base.folder.path.resolve())
    with as_adapter_error(f"the model {base.name}", base.remedy, base.hub_error):
        offline = base.hub_error is not None
        path = snapshot_download(
            base.location, revision=base.revision, local_files_only=offline, allow_patterns=DOWNLOADED_FILES
        )
    return read_model_folder(path)


def _decide(architecture: str, adapter: ModelFolder) -> LoadDecision:
    return decide_loading(architecture, adapter.config, adapter.tensors, four_bit=adapter.four_bit)


def _plan_engines(
    settings: Settings,
    base: ModelFolder,
    adapters: Mapping[str, ModelFolder],
    decisions: Mapping[str, LoadDecision],
    served: Mapping[str, ServedModel],
    architecture: str,
) -> tuple[EnginePlan, ...]:
    """Return the engine of the base and its LoRA adapters, then one for each merged adapter."""
    base_name = next(model.name for model in served.values() if model.kind == "base")
    loras = {
        name: str(adapters[name].path.resolve()) for name, decision in decisions.items() if decision.method == "lora"
    }
    rank = max((decision.rank for decision in decisions.values()), default=0)
    free = MAX_LATER_LORAS if settings.adapter_root and architecture in LORA_LAYERS else 0
    cache_dir = Path(settings.merged_path) if settings.merged_path else default_cache_dir()
    base_engine = EnginePlan(str(base.path), base_name, loras, max(rank, MAX_LATER_RANK) if free else rank, free)
    merged = [name for name, decision in decisions.items() if decision.method == "merged"]
    merged_engines = [
        EnginePlan(str(merged_model(base, adapters[name], cache_dir).folder), name, {}) for name in merged
    ]
    return (base_engine, *merged_engines)


def _eos_token_ids(folder: Path, config: Any, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the tokens that end a text, as in slm_kv: those of the model, else those of the tokenizer."""
    if (folder / "generation_config.json").is_file():
        generation_config = GenerationConfig.from_pretrained(folder)
    else:
        generation_config = GenerationConfig.from_model_config(config)
    eos: Any = generation_config.eos_token_id
    eos = eos if eos is not None else tokenizer.eos_token_id
    return frozenset([eos] if isinstance(eos, int) else eos or [])
