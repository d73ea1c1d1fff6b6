"""``ButterflyLayer``, a linear layer whose input, output or both are rotated: y = m * R_out (W R_in x + b).

Several active adapters act as if they were merged one after the other. With ``set_adapter(["a", "b"])``, b is applied
to a layer that a has already adapted: b's input rotation comes first and its output rotation last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor, nn

from slm_adapters.base.layer_weights import SavedWeight, is_sharded, write_weight
from slm_adapters.base.quantization import is_quantized
from slm_adapters.butterfly.method.config import ButterflyConfig
from slm_adapters.butterfly.method.inference_cache import CachedMergedLayer
from slm_adapters.butterfly.method.layer_parameters import ButterflyParameters
from slm_adapters.butterfly.method.placement import AdaptedWeight
from slm_adapters.butterfly.method.shared_compositions import compose_alone, is_plain
from slm_adapters.butterfly.method.sides import INPUT, OUTPUT
from slm_adapters.butterfly.rotate import rotate, rotate_by_matrices, rotate_composed, rotated_dtype
from slm_adapters.butterfly.structure import Rotation
from slm_adapters.errors import AdapterError

DECODE_ROWS = 8  # tokens at once, as in decoding: up to here a rotation takes a notable share of the layer's time
SMALL_LAYER_WEIGHTS = 2**23  # 32 MB in float32


class ButterflyLayer(ButterflyParameters):
    """Wraps ``base_layer`` with the rotations of its adapters.

    ``cache_weight`` says when a copy of the rotated weight is cached for inference. True: for any number of tokens.
    False: never. None: for up to ``DECODE_ROWS`` tokens at once, in layers on a CPU that have up to
    ``SMALL_LAYER_WEIGHTS`` weights, are not quantized, and have a single adapter. With only the rotation cached, one
    token took 1.34 to 1.53 times as long as in the base layer; with the weight, 1.06 to 1.13 (AMD EPYC with AVX2,
    2026-11-25).
    """

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: ButterflyConfig, layer_name: str):
        super().__init__(base_layer, adapter_name, config, layer_name)
        self.cache_weight: bool | None = None  # set by ButterflyModel.cache_weights
        self.saved_weight: SavedWeight | None = None  # while an adapter is merged
        small = self.in_features * self.out_features <= SMALL_LAYER_WEIGHTS
        self.rounds_input = not is_quantized(self.get_base_layer())
        self.is_small = small and self.rounds_input

    def forward(self, x: Tensor, *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any) -> Tensor:
        if adapter_names is None and (merged_layer := self._merged_layer_for(x)):
            return merged_layer(x, *args, **kwargs)
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        if adapter_names is not None:
            return self._forward_mixed(x, *args, adapter_names=adapter_names, **kwargs)
        if self.merged:
            return self.base_layer(x, *args, **kwargs)
        adapters = self._effective(self.active_adapters)
        for adapter in reversed(adapters):
            x = self._rotated(x, INPUT, adapter)
        y: Tensor = self.base_layer(x, *args, **kwargs)
        for adapter in adapters:
            y = self._scaled(self._rotated(y, OUTPUT, adapter), adapter)
        return y

    def _forward_mixed(self, x: Tensor, *args: Any, adapter_names: Sequence[str], **kwargs: Any) -> Tensor:
        """Apply adapter ``adapter_names[i]`` to row i of the batch; ``__base__`` stands for no adapter.

        The base layer is called once, for all rows.
        """
        if len(x) != len(adapter_names):
            raise AdapterError(f"adapter_names has {len(adapter_names)} names for a batch of {len(x)} rows")
        if self.merged:
            raise AdapterError("adapter_names needs the adapters unmerged; call unmerge_adapter first")
        adapters = self._effective(sorted(set(adapter_names)))
        rows = {name: torch.tensor([n == name for n in adapter_names], device=x.device) for name in adapters}
        for name, mask in rows.items():
            if INPUT in self.rotations[name]:
                x = x.clone().masked_scatter_(_expand_mask(mask, x), self._rotated(x[mask], INPUT, name).to(x.dtype))
        y: Tensor = self.base_layer(x, *args, **kwargs)
        for name, mask in rows.items():
            rotated = self._scaled(self._rotated(y[mask], OUTPUT, name), name)
            y = y.masked_scatter(_expand_mask(mask, y), rotated.to(y.dtype))
        return y

    @property
    def weight(self) -> Tensor:
        """The base's weight: guarded against use in computations while an adapter has an effect on the layer."""
        weight: Tensor = super().weight
        in_use = not self.disable_adapters and not self.merged and self._effective(self.active_adapters)
        return AdaptedWeight.of(weight, self.layer_name) if in_use else weight

    def _effective(self, adapters: Sequence[str]) -> list[str]:
        """Return the adapters that this layer has and that have an effect: strength 0 is the base, bit for bit."""
        return [name for name in adapters if self.strength.get(name)]

    def _rotated(self, x: Tensor, side: str, adapter: str) -> Tensor:
        rotation = self.rotations[adapter].get(side)
        if rotation is None:
            return x
        angles: Tensor = getattr(self, side)[adapter]
        if self._may_cache(x, angles):
            return self._rotated_from_cache(x, side, adapter, rotation)
        strength, dropout = self.strength[adapter], self.angle_dropout[adapter] if self.training else 0.0
        if torch.compiler.is_compiling() or not is_plain(x, angles):
            dropped = nn.functional.dropout(angles, dropout) if dropout else angles
            return rotate(x, self._with_strength(dropped, adapter), rotation).to(x.dtype)
        if dropout:
            dropped = nn.functional.dropout(angles, dropout)
            matrices = compose_alone(dropped, strength, rotation, rotated_dtype(x))
        else:
            matrices = self.compositions.matrices(self, side, adapter, rotated_dtype(x))
        y = rotate_composed(x, matrices, rotation)
        # Under autocast a linear layer would round its input to this dtype again.
        return y if side == INPUT and self.rounds_input else y.to(x.dtype)

    def _rotated_from_cache(self, x: Tensor, side: str, adapter: str, rotation: Rotation) -> Tensor:
        angles: Tensor = getattr(self, side)[adapter]
        matrices = self.cache.matrices((side, adapter), x, angles, self.strength[adapter], rotation)
        return rotate_by_matrices(x, matrices, rotation)

    def _scaled(self, y: Tensor, adapter: str) -> Tensor:
        if adapter not in self.butterfly_magnitude:
            return y
        return y * (1 + self._with_strength(self.butterfly_magnitude[adapter], adapter)).to(y.dtype)

    def _may_cache(self, *tensors: Tensor) -> bool:
        if self.training or torch.compiler.is_compiling():
            return False
        return not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))

    def _wants_merged_layer(self, x: Tensor) -> bool:
        if self.cache_weight is not None:
            return self.cache_weight
        few_rows = x.numel() <= DECODE_ROWS * self.in_features
        return few_rows and self.is_small and len(self.rotations) == 1 and x.device.type == "cpu"

    def _merged_layer_for(self, x: Tensor) -> Any:
        """Return the cached layer with the active adapter's rotated weight, or None if it must not be used.

        This runs for each token in every layer, so the cheap conditions come first.
        """
        if self.training or self._disable_adapters or torch.compiler.is_compiling() or not self._wants_merged_layer(x):
            return None  # while compiling, the number of tokens is not asked for: a graph would serve only part of them
        cached = self.cache.merged_layer
        valid = cached is not None and cached.is_valid(self._active_adapter, self.strength, self._modules)
        if cached is not None and valid and not torch.is_grad_enabled():
            return cached.layer
        adapters = self._effective(self.active_adapters)
        if self.merged or len(adapters) != 1 or not _is_own_parameter(self.get_base_layer().weight):
            return None
        parameters = self._parameters_of(adapters[0])
        if not self._may_cache(x, *(tensors[name] for tensors, name in parameters)):
            return None
        if cached is None or not valid:
            cached = self._cache_merged_layer(adapters[0], parameters)
        return cached.layer

    def _cache_merged_layer(self, adapter: str, parameters: list[tuple[Any, str]]) -> CachedMergedLayer:
        self.cache.merged_layer = None  # free the old layer first: two at once would take twice the memory
        self.cache.merged_layer = CachedMergedLayer.build(
            self._active_adapter,
            adapter,
            self.strength[adapter],
            self.base_layer,
            self.merged_weight(adapter),
            parameters,
        )
        return self.cache.merged_layer

    def train(self, mode: bool = True) -> ButterflyLayer:
        self.cache.clear()
        self.compositions.clear()
        super().train(mode)
        return self

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Rotate the weight itself, in float64 and rounded once. The original weight is kept until ``unmerge``.

        Raises AdapterError with ``safe_merge`` if the merged weight is not finite.
        """
        for adapter in check_adapters_to_merge(self, adapter_names):
            if adapter not in self.rotations:
                continue
            layer = self.get_base_layer()
            self.cache.clear()  # a merged layer does not use it
            weight, bias = self.merged_weight(adapter)
            if safe_merge and not torch.isfinite(weight).all():
                raise AdapterError(
                    f"{self.layer_name}: merging adapter {adapter!r} gives weights that are not finite; "
                    "train it again or copy it again"
                )
            if self.saved_weight is None:
                self.saved_weight = SavedWeight(layer)
            if self.strength[adapter]:
                write_weight(layer, weight, bias)
            self.merged_adapters.append(adapter)

    def unmerge(self) -> None:
        """Restore the weight as it was before the first merge, bit for bit."""
        if self.saved_weight is not None:
            self.saved_weight.restore(self.get_base_layer())
        self.saved_weight = None
        self.merged_adapters.clear()

    def __repr__(self) -> str:
        return "butterfly." + super().__repr__()


def _expand_mask(rows: Tensor, x: Tensor) -> Tensor:
    """Return a mask of rows ``[batch]`` in the shape of ``x`` ``[batch, ...]``."""
    return rows.view(-1, *[1] * (x.dim() - 1)).expand_as(x)


def _is_own_parameter(weight: Tensor) -> bool:
    """Whether a layer has a weight of its own: not a part of one, as in FSDP2, nor a view, as in FSDP1."""
    return isinstance(weight, nn.Parameter) and not is_sharded(weight)
