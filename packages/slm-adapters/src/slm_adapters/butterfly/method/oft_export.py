"""Export of a butterfly adapter as PEFT's OFT, for programs that have PEFT but not this package.

OFT (Qiu et al. 2023, arXiv:2306.07280) rotates inputs by blocks R = (I - Q)(I + Q)^-1, the Cayley transform of a
skew-symmetric matrix Q. Every rotation without a half turn is such an R, so the exported adapter computes the same
function; it is dense and some twenty times larger. OFT cannot rotate outputs and has no magnitudes, and this module
exports layers over ``nn.Linear`` only.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from peft import OFTConfig
from safetensors.torch import save_file
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from slm_adapters.butterfly.method.layer import ButterflyLayer
from slm_adapters.butterfly.method.sides import INPUT
from slm_adapters.butterfly.rotate import rotation_matrix
from slm_adapters.butterfly.structure import Rotation
from slm_adapters.errors import AdapterError

COPIED_SETTINGS = (
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "task_type",
    "revision",
)
MIN_SINGULAR_VALUE = 1e-6  # of I + R; below it R has a half turn in some plane, and Q is too large for float32


def export_oft(model: Any, folder: str | Path, adapter_name: str = "default") -> None:
    """Write adapter ``adapter_name`` of ``model`` (a PeftModel) to ``folder`` as an adapter of PEFT's OFT.

    Raises AdapterError for what OFT cannot express: rotated outputs, magnitudes, Conv1D layers, half turns.
    """
    layers = [(name, m) for name, m in model.get_base_model().named_modules() if _has_adapter(m, adapter_name)]
    if not layers:
        raise AdapterError(f"there is no butterfly adapter {adapter_name!r} to export")
    for name, layer in layers:
        _check_expressible(name, layer, adapter_name)
    tensors = {f"base_model.model.{name}.oft_R.weight": _oft_weight(name, m, adapter_name) for name, m in layers}
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(tensors, Path(folder) / "adapter_model.safetensors", metadata={"format": "pt"})
    _oft_config(model.peft_config[adapter_name], layers, adapter_name).save_pretrained(str(folder))


def _has_adapter(module: Any, adapter: str) -> bool:
    return isinstance(module, ButterflyLayer) and adapter in module.rotations


def _check_expressible(name: str, layer: ButterflyLayer, adapter: str) -> None:
    reason = ""
    if set(layer.rotations[adapter]) != {INPUT}:
        reason = "its output is rotated, and OFT rotates inputs only (side='input')"
    elif adapter in layer.butterfly_magnitude:
        reason = "it has learned magnitudes, and OFT has none"
    elif isinstance(layer.get_base_layer(), Conv1D):
        reason = "PEFT's OFT does not support Conv1D layers such as GPT-2's; merge the adapter instead"
    if reason:
        raise AdapterError(f"{name} cannot be exported as OFT: {reason}")


def _oft_weight(name: str, layer: ButterflyLayer, adapter: str) -> Tensor:
    """Return the entries of Q above its diagonal, ``[blocks, size (size - 1) / 2]``."""
    rotation = layer.rotations[adapter][INPUT]
    blocks = _diagonal_blocks(layer.exact_angles(INPUT, adapter), rotation).transpose(1, 2)  # OFT multiplies rows
    eye = torch.eye(rotation.block_size, dtype=blocks.dtype, device=blocks.device)
    if torch.linalg.svdvals(eye + blocks).min() < MIN_SINGULAR_VALUE:
        raise AdapterError(
            f"{name} cannot be exported as OFT: it rotates a plane by half a turn, which the Cayley transform cannot"
        )
    skew = torch.linalg.solve(eye + blocks, eye - blocks)
    rows, columns = torch.triu_indices(rotation.block_size, rotation.block_size, 1)
    return skew[:, rows, columns].float().cpu().contiguous()


def _diagonal_blocks(angles: Tensor, rotation: Rotation) -> Tensor:
    """Return the diagonal blocks of R, ``[blocks, size, size]``, without the zeros between them."""
    block_rotation = Rotation(rotation.block_size, rotation.block_size, rotation.stages)
    return torch.stack([rotation_matrix(block[None], block_rotation) for block in angles])


def _oft_config(config: Any, layers: list[tuple[str, ButterflyLayer]], adapter: str) -> OFTConfig:
    sizes = {layer.rotations[adapter][INPUT].block_size for _, layer in layers}
    full_width = config.block_size is None and len(sizes) > 1  # one block for each width
    copied = {name: value for name, value in asdict(config).items() if name in COPIED_SETTINGS}
    shape = {"r": 1, "oft_block_size": 0} if full_width else {"r": 0, "oft_block_size": sizes.pop()}
    return OFTConfig(
        **copied,
        **shape,
        use_cayley_neumann=False,  # PEFT's default, five Neumann terms, is not orthogonal
        base_model_name_or_path=config.base_model_name_or_path,
        inference_mode=True,
    )
