"""What is in the folder of a run: told by its config and its weight files, the base model is not loaded."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from slm_adapters.base.base_lookup import recorded_base
from slm_adapters.base.model_folder import ModelFolder
from slm_adapters.butterfly.structure import Rotation, full_stages, prime_factors
from slm_adapters.loading.attach import adapter_config

PART = ".butterfly_"


def describe(folder: ModelFolder) -> dict[str, Any]:
    """Method, base, sizes, and what the method has to say, ready for JSON."""
    kind = _adapter(folder) if folder.holds_adapter else _model(folder)
    return kind | {
        "parameters": sum(head.count for head in folder.tensors.values()),
        "dtypes": sorted({head.dtype for head in folder.tensors.values()}),
        "bytes": folder.size,
    }


def method(folder: ModelFolder) -> str:
    """In words: full model, LoRA, QLoRA, butterfly (full width) ..."""
    if not folder.holds_adapter:
        return "full model"
    kind, config = str(folder.config.get("peft_type")), folder.config
    if kind == "LORA":
        return ("QLoRA" if folder.four_bit else "LoRA") + (" with DoRA" if config.get("use_dora") else "")
    if kind != "BUTTERFLY":
        return f"{kind} of PEFT"
    block = config.get("block_size")
    return f"butterfly ({'full width' if block is None else f'blocks of {block}'})" + (
        " over 4-bit weights" if folder.four_bit else ""
    )


def _model(folder: ModelFolder) -> dict[str, Any]:
    config = folder.config
    return {
        "method": method(folder),
        "architecture": ", ".join(config.get("architectures") or [str(config.get("model_type"))]),
        "trained_from": folder.run.get("base") or None,
    }


def _adapter(folder: ModelFolder) -> dict[str, Any]:
    adapter_config(folder)  # refuses what PEFT would not take
    config = folder.config
    found: dict[str, Any] = {"method": method(folder), "base": recorded_base(folder), "targets": _targets(config)}
    if config["peft_type"] == "LORA":
        found |= {name: config.get(name) for name in ("r", "lora_alpha", "use_rslora", "use_dora")}
        found["layers"] = len({name.split(".lora_")[0] for name in folder.tensors if ".lora_" in name})
    if config["peft_type"] == "BUTTERFLY":
        found |= {name: config.get(name) for name in ("side", "scale", "strength")}
        found["layers"] = _rotations(folder)
    return found


def _targets(config: dict[str, Any]) -> list[str] | str | None:
    """Sorted; full names of layers by their last two parts where that says as much."""
    targets = config.get("target_modules")
    if not isinstance(targets, list):
        return targets
    return sorted({".".join(part for part in name.split(".")[-2:] if not part.isdigit()) for name in targets})


def _rotations(folder: ModelFolder) -> list[dict[str, Any]]:
    """A row for each rotation: where, which side, its structure, and how far it turns."""
    strength = float(folder.config.get("strength", 1.0))
    rows = []
    for name, angles in folder.values():
        if not name.endswith((PART + "input", PART + "output")):
            continue
        layer, _, side = name.removeprefix("base_model.model.").partition(PART)
        rotation = _rotation(tuple(angles.shape), folder.config.get("block_size"), folder.config.get("stages"))
        rows.append(
            {
                "layer": layer,
                "side": side,
                "width": rotation.width if rotation else None,
                "block": rotation.block_size if rotation else None,
                "stages": rotation.stages if rotation else None,
                "angles": angles.numel(),
                "largest_angle": math.degrees(float(angles.abs().max()) * abs(strength)),
            }
        )
    return rows


@lru_cache
def _rotation(shape: tuple[int, int], block: int | None, stages: int | None) -> Rotation | None:
    """The rotation that has angles ``[blocks, angles of a block]``. A full width is not written down; of those
    with so many angles the one with the smallest prime factors is taken: widths of models are such numbers."""
    blocks, count = shape
    if block is not None:
        return Rotation.of(blocks * block, block, stages)
    fitting = [width for width in range(2, 2 * count + 1) if _angle_count(width, stages) == count]
    width = min(fitting, key=lambda width: (max(prime_factors(width)), -width), default=None)
    return None if width is None else Rotation.of(width, None, stages)


def _angle_count(width: int, stages: int | None) -> int:
    """Angles of a full-width rotation: ``width / p`` groups a stage of radix p, with its planes each."""
    primes = prime_factors(width)
    ladder = [primes[at % len(primes)] for at in range(stages or full_stages(width))]
    return sum(_planes(radix) * (width // radix) for radix in ladder)


@lru_cache
def _planes(radix: int) -> int:
    """Planes of a stage, counted without listing them: a search goes over large primes too."""
    up = [2**s for s in range((radix - 1).bit_length())]
    return sum((radix - d) // (2 * d) * d + min((radix - d) % (2 * d), d) for d in [*up, *reversed(up[:-1])])
