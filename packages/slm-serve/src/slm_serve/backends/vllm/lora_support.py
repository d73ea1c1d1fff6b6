"""Decides which adapters vLLM can load itself and which must be merged first. vLLM is not imported here.

The rules are from the source of vLLM 0.32: ``lora/peft_helper.py`` (supported settings), ``config/lora.py`` (ranks),
``lora/lora_model.py`` (names of layers), and the models that declare ``SupportsLoRA``. vLLM silently ignores settings
that it does not know, so every adapter that is not known to be supported is merged, which is always correct.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

VLLM_VERSION = "0.32"
ALLOWED_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # allowed values of max_lora_rank
_PROJECTIONS = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})
# Architectures for which vLLM loads LoRA, with the layers that may be adapted. Incomplete: vLLM supports more of both.
LORA_LAYERS: Mapping[str, frozenset[str]] = {
    "LlamaForCausalLM": _PROJECTIONS,
    "MistralForCausalLM": _PROJECTIONS,
    "Qwen2ForCausalLM": _PROJECTIONS,
    "Qwen3ForCausalLM": _PROJECTIONS,
    "GemmaForCausalLM": _PROJECTIONS,
    "Gemma2ForCausalLM": _PROJECTIONS,
    "Gemma3ForCausalLM": _PROJECTIONS,
    "GraniteForCausalLM": _PROJECTIONS,
    "Phi3ForCausalLM": frozenset({"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}),
}
# Values of init_lora_weights that do not change the weights of the base; others (PiSSA, OLoRA, ...) do.
_INITS_KEEPING_BASE = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
# Settings that vLLM and PEFT read alike, settings without effect on a trained adapter, and settings checked below.
_SUPPORTED_SETTINGS = frozenset(
    {
        "r",
        "lora_alpha",
        "use_rslora",
        "rank_pattern",
        "alpha_pattern",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "peft_type",
        "task_type",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "lora_dropout",
        "fan_in_fan_out",
        "bias",
        "modules_to_save",
        "init_lora_weights",
        "loftq_config",
        "eva_config",
        "corda_config",
        "lora_ga_config",
        "megatron_core",
        "qalora_group_size",
        "ensure_weight_tying",
        "use_dora",
    }
)


@dataclass(frozen=True)
class LoadDecision:
    """How an adapter is loaded into vLLM, and why.

    Args:
        method: ``lora``: vLLM loads the adapter; ``merged``: it is merged into the base first.
        reasons: at least one sentence.
        rank: the largest rank of an adapter that vLLM loads.
    """

    method: Literal["lora", "merged"]
    reasons: tuple[str, ...]
    rank: int = 0


def decide_loading(
    architecture: str,
    adapter_config: Mapping[str, Any],
    tensor_names: Iterable[str],
    *,
    four_bit: bool = False,
    lora_layers: Mapping[str, Collection[str]] = LORA_LAYERS,
    max_rank: int = ALLOWED_RANKS[-1],
) -> LoadDecision:
    """Decide whether vLLM can load an adapter or needs it merged.

    Args:
        architecture: of the base, as in its config.json.
        adapter_config: content of adapter_config.json.
        tensor_names: names of the tensors in the adapter's weight file.
        four_bit: whether the adapter was trained on 4-bit weights.
        lora_layers: for each architecture for which vLLM loads LoRA, the layers that may be adapted.
        max_rank: the largest rank that vLLM loads.
    """
    peft_type = adapter_config.get("peft_type")
    if peft_type != "LORA":
        reason = f"it is an adapter of the method {peft_type}, and vLLM {VLLM_VERSION} loads only LoRA"
        return LoadDecision("merged", (reason,))
    reasons = [
        *_check_base(architecture, four_bit, lora_layers),
        *_check_settings(adapter_config),
        *_check_rank(adapter_config, max_rank),
    ]
    if architecture in lora_layers:
        reasons += _check_layers(architecture, tensor_names, lora_layers[architecture])
    if reasons:
        return LoadDecision("merged", tuple(reasons))
    rank = largest_rank(adapter_config)
    reason = f"it is a plain LoRA of rank {rank}, which vLLM {VLLM_VERSION} loads for {architecture}"
    return LoadDecision("lora", (reason,), rank)


def largest_rank(adapter_config: Mapping[str, Any]) -> int:
    """Return the largest rank of any layer of the adapter."""
    return max([int(adapter_config.get("r", 0)), *map(int, (adapter_config.get("rank_pattern") or {}).values())])


def max_lora_rank(rank: int) -> int:
    """Return the smallest value of vLLM's ``max_lora_rank`` that allows ``rank``."""
    return next(allowed for allowed in ALLOWED_RANKS if allowed >= rank)


def _check_base(architecture: str, four_bit: bool, lora_layers: Mapping[str, Collection[str]]) -> Iterable[str]:
    if architecture.startswith("GPT2"):
        yield f"vLLM {VLLM_VERSION} has no LoRA for GPT-2 ('{architecture} does not support LoRA yet')"
    elif architecture not in lora_layers:
        yield f"vLLM {VLLM_VERSION} is not known to load LoRA for {architecture}"
    if four_bit:
        yield "it was trained on 4-bit weights, and vLLM would apply it to the unquantized ones"


def _check_settings(adapter_config: Mapping[str, Any]) -> Iterable[str]:
    if adapter_config.get("use_dora"):
        yield f"it is a DoRA (use_dora), which vLLM {VLLM_VERSION} does not load"
    if (bias := adapter_config.get("bias", "none")) != "none":
        yield f"it has trained biases (bias={bias!r}), which vLLM {VLLM_VERSION} does not load"
    if saved := adapter_config.get("modules_to_save"):
        yield f"it contains whole layers (modules_to_save: {', '.join(saved)}), which vLLM {VLLM_VERSION} does not load"
    init = adapter_config.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in _INITS_KEEPING_BASE:
        yield f"its initialization (init_lora_weights={init!r}) changed the base, which vLLM {VLLM_VERSION} rejects"
    for name in sorted(adapter_config.keys() - _SUPPORTED_SETTINGS):
        if adapter_config[name]:
            yield f"it sets {name}, which vLLM {VLLM_VERSION} is not known to support"


def _check_rank(adapter_config: Mapping[str, Any], max_rank: int) -> Iterable[str]:
    if (rank := largest_rank(adapter_config)) > max_rank:
        yield f"its rank {rank} is above {max_rank}, the maximum of vLLM {VLLM_VERSION}"


def _check_layers(architecture: str, tensor_names: Iterable[str], known: Collection[str]) -> Iterable[str]:
    if unknown := sorted({layer for layer in map(_layer_name, tensor_names) if layer not in known}):
        yield f"it adapts {', '.join(unknown)}, which vLLM {VLLM_VERSION} is not known to support for {architecture}"


def _layer_name(tensor_name: str) -> str:
    """Return the layer of a LoRA tensor, such as q_proj; for other tensors two name parts, which match no layer."""
    for suffix in (".lora_A.weight", ".lora_B.weight"):
        if tensor_name.endswith(suffix):
            return tensor_name.removesuffix(suffix).rpartition(".")[2]
    return ".".join(tensor_name.split(".")[-2:])
