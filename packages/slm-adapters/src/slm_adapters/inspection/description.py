"""Description of a model or adapter folder from its configuration and weight files; the base is not loaded."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from slm_adapters.base.base_lookup import recorded_base
from slm_adapters.base.model_folder import ModelFolder
from slm_adapters.butterfly.structure import Rotation, full_stages, plane_distances, prime_factors
from slm_adapters.loading.attach import read_adapter_config

BUTTERFLY_PART = ".butterfly_"  # in tensor names: layer.butterfly_side


def describe(folder: ModelFolder) -> dict[str, Any]:
    """Return the method, base, sizes and settings of the folder's model or adapter, as values for JSON."""
    description = _describe_adapter(folder) if folder.holds_adapter else _describe_model(folder)
    return description | {
        "parameters": sum(header.count for header in folder.tensors.values()),
        "dtypes": sorted({header.dtype for header in folder.tensors.values()}),
        "bytes": folder.size,
    }


def method_name(folder: ModelFolder) -> str:
    """Return the method in words: full model, LoRA, QLoRA, butterfly (full width) ..."""
    if not folder.holds_adapter:
        return "full model"
    peft_type, config = str(folder.config.get("peft_type")), folder.config
    if peft_type == "LORA":
        return ("QLoRA" if folder.four_bit else "LoRA") + (" with DoRA" if config.get("use_dora") else "")
    if peft_type == "OFT":
        return "OFT" + (" over 4-bit weights" if folder.four_bit else "")
    if peft_type != "BUTTERFLY":
        return f"{peft_type} of PEFT"
    block = config.get("block_size")
    width = "full width" if block is None else f"blocks of {block}"
    return f"butterfly ({width})" + (" over 4-bit weights" if folder.four_bit else "")


def _describe_model(folder: ModelFolder) -> dict[str, Any]:
    config = folder.config
    return {
        "method": method_name(folder),
        "architecture": ", ".join(config.get("architectures") or [str(config.get("model_type"))]),
        "trained_from": folder.run.get("base") or None,
    }


def _describe_adapter(folder: ModelFolder) -> dict[str, Any]:
    read_adapter_config(folder)  # refuses what PEFT would not load
    config = folder.config
    description: dict[str, Any] = {
        "method": method_name(folder),
        "base": recorded_base(folder),
        "targets": _short_targets(config),
    }
    if config["peft_type"] == "LORA":
        description |= {name: config.get(name) for name in ("r", "lora_alpha", "use_rslora", "use_dora")}
        description["layers"] = len({name.split(".lora_")[0] for name in folder.tensors if ".lora_" in name})
    if config["peft_type"] == "OFT":
        # Exported butterflies of the full width have one block (r) in each layer instead of a size.
        description |= {name: config.get(name) or None for name in ("oft_block_size", "r")}
        description["layers"] = len({name.split(".oft_")[0] for name in folder.tensors if ".oft_" in name})
    if config["peft_type"] == "BUTTERFLY":
        description |= {name: config.get(name) for name in ("side", "scale", "strength")}
        description["layers"] = _rotation_rows(folder)
    return description


def _short_targets(config: dict[str, Any]) -> list[str] | str | None:
    """Return the targets sorted; full names of layers are cut to their last two parts, without block numbers."""
    targets = config.get("target_modules")
    if not isinstance(targets, list):
        return targets
    return sorted({".".join(part for part in name.split(".")[-2:] if not part.isdigit()) for name in targets})


def _rotation_rows(folder: ModelFolder) -> list[dict[str, Any]]:
    """Return a row for each rotation: its layer, side, structure, and its largest angle in degrees."""
    strength = float(folder.config.get("strength", 1.0))
    rows = []
    for name, angles in folder.values():
        if not name.endswith((BUTTERFLY_PART + "input", BUTTERFLY_PART + "output")):
            continue
        layer, _, side = name.removeprefix("base_model.model.").partition(BUTTERFLY_PART)
        shape = tuple(angles.shape)
        rotation = rotation_of_shape(shape, folder.config.get("block_size"), folder.config.get("stages"))
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
def rotation_of_shape(shape: tuple[int, int], block: int | None, stages: int | None) -> Rotation | None:
    """Return the rotation that has angles of ``shape``, ``[blocks, angles of a block]``, or None if there is none.

    With ``block`` None the width is not recorded. Of the widths with that number of angles, the one with the smallest
    prime factors is returned, because the widths of models have small ones.
    """
    blocks, count = shape
    if block is not None:
        return Rotation.of(blocks * block, block, stages)
    candidates = [width for width in range(2, 2 * count + 1) if _full_width_angles(width, stages) == count]
    width = min(candidates, key=lambda width: (max(prime_factors(width)), -width), default=None)
    return None if width is None else Rotation.of(width, None, stages)


def _full_width_angles(width: int, stages: int | None) -> int:
    """Return the number of angles of a full-width rotation: ``width / p`` groups in a stage of radix p."""
    primes = prime_factors(width)
    radices = [primes[index % len(primes)] for index in range(stages or full_stages(width))]
    return sum(_plane_count(radix) * (width // radix) for radix in radices)


@lru_cache
def _plane_count(radix: int) -> int:
    """Return ``len(Stage.planes)`` without listing the planes: the search includes large primes, which have many.

    At distance d, every other run of d values below radix - d is the lower value of a pair.
    """
    return sum((radix - d) // (2 * d) * d + min((radix - d) % (2 * d), d) for d in plane_distances(radix))
