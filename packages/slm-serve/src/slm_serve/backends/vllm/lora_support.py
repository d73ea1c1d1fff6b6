"""Whether vLLM can load an adapter itself, or gets a model that it was merged into; and why. No vLLM here.

Read in the source of vLLM 0.32: ``lora/peft_helper.py`` (what a configuration may say), ``config/lora.py`` (ranks),
``lora/lora_model.py`` (names of layers), and the models that declare ``SupportsLoRA``. It reads the settings it knows
and passes over all others in silence: what is not known here to be fine is merged, which is always right.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

VERSION = "0.32"
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what its max_lora_rank may be
_PROJECTIONS = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})
# Architectures whose LoRA it loads, and the layers that may have it. It knows more of both.
LOADS_LORA: Mapping[str, frozenset[str]] = {
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
# Starts that leave the base as it was, so that the file holds all of the adapter.
_PLAIN_STARTS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
# Settings that it reads as PEFT does, and those that say nothing of a trained adapter or are looked at below.
_FINE = frozenset(
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
class VLLMChoice:
    """``lora``: vLLM loads the adapter, of rank ``rank`` at most; ``merged``: it is merged first. ``reasons`` are
    sentences, one at least."""

    way: Literal["lora", "merged"]
    reasons: tuple[str, ...]
    rank: int = 0


def choose(
    architecture: str,
    adapter: Mapping[str, Any],
    tensors: Iterable[str],
    *,
    four_bit: bool = False,
    loads_lora: Mapping[str, Collection[str]] = LOADS_LORA,
    most_rank: int = RANKS[-1],
) -> VLLMChoice:
    """How vLLM gets to an adapter with the adapter_config.json ``adapter``, on a base whose config.json names
    ``architecture``. ``tensors``: names in its weight file; ``four_bit``: whether it was trained over 4-bit weights.
    """
    method = adapter.get("peft_type")
    if method != "LORA":
        reason = f"it is an adapter of the method {method}, and vLLM {VERSION} loads LoRA alone"
        return VLLMChoice("merged", (reason,))
    reasons = [*_of_base(architecture, four_bit, loads_lora), *_of_settings(adapter), *_of_rank(adapter, most_rank)]
    if architecture in loads_lora:
        reasons += _of_layers(architecture, tensors, loads_lora[architecture])
    if reasons:
        return VLLMChoice("merged", tuple(reasons))
    rank = largest_rank(adapter)
    fine = f"it is a plain LoRA of rank {rank}, which vLLM {VERSION} loads for {architecture}"
    return VLLMChoice("lora", (fine,), rank)


def largest_rank(adapter: Mapping[str, Any]) -> int:
    """The largest rank that a layer of it has."""
    return max([int(adapter.get("r", 0)), *map(int, (adapter.get("rank_pattern") or {}).values())])


def allowed_rank(rank: int) -> int:
    """The least ``max_lora_rank`` that takes ``rank``."""
    return next(allowed for allowed in RANKS if allowed >= rank)


def _of_base(architecture: str, four_bit: bool, loads_lora: Mapping[str, Collection[str]]) -> Iterable[str]:
    if architecture.startswith("GPT2"):
        yield f"vLLM {VERSION} has no LoRA for GPT-2 ('{architecture} does not support LoRA yet')"
    elif architecture not in loads_lora:
        yield f"vLLM {VERSION} is not known to load LoRA for {architecture}"
    if four_bit:
        yield "it was trained over 4-bit weights, and vLLM would lay it over the whole ones"


def _of_settings(adapter: Mapping[str, Any]) -> Iterable[str]:
    if adapter.get("use_dora"):
        yield f"it is a DoRA (use_dora), which vLLM {VERSION} does not load"
    if (bias := adapter.get("bias", "none")) != "none":
        yield f"it trained biases (bias={bias!r}), which vLLM {VERSION} does not take"
    if saved := adapter.get("modules_to_save"):
        yield f"it brings whole layers along (modules_to_save: {', '.join(saved)}), which vLLM {VERSION} does not take"
    start = adapter.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in _PLAIN_STARTS:
        yield f"its start (init_lora_weights={start!r}) changed the base's weights, which vLLM {VERSION} refuses"
    for name in sorted(adapter.keys() - _FINE):
        if adapter[name]:
            yield f"it sets {name}, which vLLM {VERSION} is not known to follow"


def _of_rank(adapter: Mapping[str, Any], most: int) -> Iterable[str]:
    if (rank := largest_rank(adapter)) > most:
        yield f"its rank {rank} is above {most}, the largest that vLLM {VERSION} takes"


def _of_layers(architecture: str, tensors: Iterable[str], known: Collection[str]) -> Iterable[str]:
    if alien := sorted({layer for layer in map(_layer, tensors) if layer not in known}):
        yield f"it adapts {', '.join(alien)}, where vLLM {VERSION} is not known to take LoRA for {architecture}"


def _layer(tensor: str) -> str:
    """The last name of the layer whose A or B it is; of another tensor the last two names, which no layer has."""
    for end in (".lora_A.weight", ".lora_B.weight"):
        if tensor.endswith(end):
            return tensor.removesuffix(end).rpartition(".")[2]
    return ".".join(tensor.split(".")[-2:])
