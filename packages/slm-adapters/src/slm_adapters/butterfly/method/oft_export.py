"""A butterfly adapter as one of PEFT's OFT, for programs that know PEFT alone.

OFT (Qiu et al. 2023, arXiv:2306.07280) rotates inputs by blocks R = (I - Q)(I + Q)^-1, Cayley's map of a skew Q. Every
rotation without a half turn is such an R, so that the exported adapter is the same function: dense, and some twenty
times larger. OFT has no output side and no magnitudes, and PEFT puts it on ``nn.Linear`` only.
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

from slm_adapters.butterfly.method.layer import INPUT, ButterflyLayer
from slm_adapters.butterfly.rotate import rotation_matrix
from slm_adapters.butterfly.structure import Rotation
from slm_adapters.errors import AdapterError

KEPT = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "task_type", "revision")
HALF_TURN = 1e-6  # singular values of I + R below it: Q would be beyond float32


def export_oft(model: Any, folder: str | Path, adapter_name: str = "default") -> None:
    """Write adapter ``adapter_name`` of ``model`` (a PeftModel) to ``folder``, as PEFT's OFT.

    Raises AdapterError for what OFT cannot be: outputs rotated, magnitudes, Conv1D layers, half turns.
    """
    layers = [(name, m) for name, m in model.get_base_model().named_modules() if _has(m, adapter_name)]
    if not layers:
        raise AdapterError(f"there is no butterfly adapter {adapter_name!r} to export")
    for name, layer in layers:
        _check(name, layer, adapter_name)
    tensors = {f"base_model.model.{name}.oft_R.weight": _weight(name, m, adapter_name) for name, m in layers}
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(tensors, Path(folder) / "adapter_model.safetensors", metadata={"format": "pt"})
    _config(model.peft_config[adapter_name], layers, adapter_name).save_pretrained(str(folder))


def _has(module: Any, adapter: str) -> bool:
    return isinstance(module, ButterflyLayer) and adapter in module.rotations


def _check(name: str, layer: ButterflyLayer, adapter: str) -> None:
    reason = ""
    if set(layer.rotations[adapter]) != {INPUT}:
        reason = "its output is rotated, and OFT rotates inputs alone (side='input')"
    elif adapter in layer.butterfly_magnitude:
        reason = "it has learned magnitudes, and OFT has none"
    elif isinstance(layer.get_base_layer(), Conv1D):
        reason = "PEFT's OFT does not go on Conv1D layers such as GPT-2's; merge the adapter instead"
    if reason:
        raise AdapterError(f"{name} cannot become OFT: {reason}")


def _weight(name: str, layer: ButterflyLayer, adapter: str) -> Tensor:
    """``[blocks, size (size - 1) / 2]``: Q above its diagonal."""
    rotation = layer.rotations[adapter][INPUT]
    blocks = _blocks(layer.exact_angles(INPUT, adapter), rotation).transpose(1, 2)  # OFT multiplies rows
    eye = torch.eye(rotation.block_size, dtype=blocks.dtype, device=blocks.device)
    if torch.linalg.svdvals(eye + blocks).min() < HALF_TURN:
        raise AdapterError(f"{name} cannot become OFT: it turns a plane by half a circle, which Cayley's map lacks")
    skew = torch.linalg.solve(eye + blocks, eye - blocks)
    rows, columns = torch.triu_indices(rotation.block_size, rotation.block_size, 1)
    return skew[:, rows, columns].float().cpu().contiguous()


def _blocks(angles: Tensor, rotation: Rotation) -> Tensor:
    """``[blocks, size, size]``, the diagonal blocks of R, without the zeros between them."""
    one = Rotation(rotation.block_size, rotation.block_size, rotation.stages)
    return torch.stack([rotation_matrix(block[None], one) for block in angles])


def _config(ours: Any, layers: list[tuple[str, ButterflyLayer]], adapter: str) -> OFTConfig:
    sizes = {layer.rotations[adapter][INPUT].block_size for _, layer in layers}
    whole = ours.block_size is None and len(sizes) > 1  # every width its own block
    kept = {name: value for name, value in asdict(ours).items() if name in KEPT}
    shape = {"r": 1, "oft_block_size": 0} if whole else {"r": 0, "oft_block_size": sizes.pop()}
    return OFTConfig(
        **kept,
        **shape,
        use_cayley_neumann=False,
        base_model_name_or_path=ours.base_model_name_or_path,
        inference_mode=True,
    )
