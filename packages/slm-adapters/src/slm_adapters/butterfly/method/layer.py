"""A linear layer whose input, output or both are rotated: y = m * R_out (W R_in x + b).

Several active adapters act as if merged one after the other: with ``set_adapter(["a", "b"])``, b lies on a layer
that already has a, so that its input rotation comes first and its output rotation last.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn

from slm_adapters.base.layer_weights import Pristine, exact, features, read_weight, write_weight
from slm_adapters.base.quantization import is_quantized
from slm_adapters.butterfly.method.config import ButterflyConfig
from slm_adapters.butterfly.method.inference_cache import Ready, RotatedLayer
from slm_adapters.butterfly.rotate import matrices, rotate, rotate_back, rotate_by
from slm_adapters.butterfly.structure import Rotation
from slm_adapters.butterfly.value_checks import check_strength
from slm_adapters.errors import AdapterError

INPUT, OUTPUT, MAGNITUDE = "butterfly_input", "butterfly_output", "butterfly_magnitude"
FEW_ROWS = 8  # as many sequences decoded together: up to here a rotation costs a notable part of the layer
SMALL_LAYER = 2**23  # weights: 32 MB in float32


class ButterflyLayer(nn.Module, BaseTunerLayer):  # type: ignore[misc]  # PEFT is typed in part
    """Wraps ``base_layer``; holds angles (radians) and, with ``scale``, magnitudes less one. The weight of the
    base is copied while an adapter is merged into it, and for inference as ``cache_weight`` says: True, for every
    token; None, for up to ``FEW_ROWS`` tokens at once through a layer on a CPU with up to ``SMALL_LAYER`` weights,
    in no 4 or 8 bits, that carries one adapter; False, never."""

    base_layer: Any
    get_base_layer: Any
    set_adapter: Any
    active_adapters: Any
    adapter_layer_names = (INPUT, OUTPUT, MAGNITUDE)
    other_param_names = ("rotations", "strength", "angle_dropout")

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: ButterflyConfig, where: str):
        super().__init__()
        self.base_layer = base_layer
        self.where = where
        shape = features(self.get_base_layer())
        if shape is None:
            raise AdapterError(f"{where} is a {type(base_layer).__name__}; butterfly adapters go on linear layers")
        self.in_features, self.out_features = shape
        self.butterfly_input = nn.ParameterDict()
        self.butterfly_output = nn.ParameterDict()
        self.butterfly_magnitude = nn.ParameterDict()
        self.rotations: dict[str, dict[str, Rotation]] = {}
        self.strength: dict[str, float] = {}
        self.angle_dropout: dict[str, float] = {}
        self.merged_adapters: list[str] = []
        self._pristine: Pristine | None = None
        self.cache_weight: bool | None = None  # ButterflyModel.cache_weights
        self._small = math.prod(shape) <= SMALL_LAYER and not is_quantized(self.get_base_layer())
        self._ready: dict[tuple[str, str], Ready] = {}
        self._kept_layer: RotatedLayer | None = None
        self._disable_adapters = False
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: ButterflyConfig, **_: Any) -> None:
        """Lay another adapter on the layer. Raises AdapterError for a block that does not fit, by layer."""
        rotations = self._rotations(config)
        self.drop_caches()
        self.rotations[adapter_name] = rotations
        self.strength[adapter_name] = config.strength
        self.angle_dropout[adapter_name] = config.angle_dropout
        for side, rotation in rotations.items():
            getattr(self, side)[adapter_name] = self._parameter(rotation.angle_shape, config)
        if config.scale:
            self.butterfly_magnitude[adapter_name] = self._parameter((self.out_features,), config)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def delete_adapter(self, adapter_name: str) -> None:
        self.drop_caches()
        super().delete_adapter(adapter_name)

    def _rotations(self, config: ButterflyConfig) -> dict[str, Rotation]:
        side = config.side
        if side == "auto":
            side = "input" if self.in_features <= self.out_features else "output"
        widths = {INPUT: self.in_features, OUTPUT: self.out_features}
        wanted = {"input": [INPUT], "output": [OUTPUT], "both": [INPUT, OUTPUT]}[side]
        try:
            return {name: Rotation.of(widths[name], config.block_size, config.stages) for name in wanted}
        except AdapterError as refused:
            raise AdapterError(f"{self.where}: {refused}") from None

    def _parameter(self, shape: tuple[int, ...], config: ButterflyConfig) -> nn.Parameter:
        weight = self.get_base_layer().weight
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        values = torch.zeros(shape, dtype=dtype)  # on the meta device under PEFT's low_cpu_mem_usage
        if values.device.type != "meta":
            values = values.to(weight.device)
            if not config.init_weights:
                nn.init.normal_(values, std=0.1)
        return nn.Parameter(values)

    def set_scale(self, adapter: str, scale: float) -> None:
        """Set the strength of ``adapter``: its angles (and magnitudes less one) count ``scale`` times."""
        check_strength(scale)
        if adapter in self.strength:
            self._refuse_while_merged("change the strength of", adapter)
            self.strength[adapter] = float(scale)

    def scale_layer(self, scale: float) -> None:
        for adapter in self.active_adapters:
            if adapter in self.strength:
                self.set_scale(adapter, self.strength[adapter] * scale)

    def _refuse_while_merged(self, what: str, adapter: str) -> None:
        if adapter in self.merged_adapters:
            raise AdapterError(f"cannot {what} adapter {adapter!r} while it is merged; unmerge it first")

    def forward(self, x: Tensor, *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any) -> Tensor:
        if adapter_names is None and (merged := self._as_if_merged(x)):
            return merged(x, *args, **kwargs)
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        if adapter_names is not None:
            return self._forward_mixed(x, *args, adapter_names=adapter_names, **kwargs)
        if self.merged:
            return self.base_layer(x, *args, **kwargs)
        active = self._acting(self.active_adapters)
        for adapter in reversed(active):
            x = self._rotated(x, INPUT, adapter)
        y: Tensor = self.base_layer(x, *args, **kwargs)
        for adapter in active:
            y = self._scaled(self._rotated(y, OUTPUT, adapter), adapter)
        return y

    def _forward_mixed(self, x: Tensor, *args: Any, adapter_names: Sequence[str], **kwargs: Any) -> Tensor:
        """A row of the batch, an adapter: ``adapter_names[i]`` for row i, ``__base__`` for none. The base layer
        is computed once, for all rows."""
        if len(x) != len(adapter_names):
            raise AdapterError(f"adapter_names has {len(adapter_names)} names for a batch of {len(x)} rows")
        if self.merged:
            raise AdapterError("adapter_names needs the adapters unmerged; call unmerge_adapter first")
        acting = self._acting(sorted(set(adapter_names)))
        rows = {name: torch.tensor([n == name for n in adapter_names], device=x.device) for name in acting}
        for name, chosen in rows.items():
            if INPUT in self.rotations[name]:
                x = x.clone().masked_scatter_(_over(chosen, x), self._rotated(x[chosen], INPUT, name))
        y: Tensor = self.base_layer(x, *args, **kwargs)
        for name, chosen in rows.items():
            turned = self._scaled(self._rotated(y[chosen], OUTPUT, name), name)
            y = y.masked_scatter(_over(chosen, y), turned.to(y.dtype))
        return y

    def _acting(self, adapters: Sequence[str]) -> list[str]:
        """Those that lie on this layer and do anything: at strength 0 the base is computed, bit for bit."""
        return [name for name in adapters if self.strength.get(name)]

    def _rotated(self, x: Tensor, side: str, adapter: str) -> Tensor:
        rotation = self.rotations[adapter].get(side)
        if rotation is None:
            return x
        angles: Tensor = getattr(self, side)[adapter]
        if self._may_cache(x, angles):
            return self._rotated_by_cache(x, side, adapter, rotation)
        if self.training and self.angle_dropout[adapter]:
            angles = nn.functional.dropout(angles, self.angle_dropout[adapter])
        return rotate(x, self._strong(angles, adapter), rotation).to(x.dtype)

    def _wants_weight(self, x: Tensor) -> bool:
        if self.cache_weight is not None:
            return self.cache_weight
        few = x.numel() <= FEW_ROWS * self.in_features
        return few and self._small and len(self.rotations) == 1 and x.device.type == "cpu"

    def _may_cache(self, *tensors: Tensor) -> bool:
        if self.training or torch.compiler.is_compiling():
            return False
        return not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))

    def _rotated_by_cache(self, x: Tensor, side: str, adapter: str, rotation: Rotation) -> Tensor:
        angles: Tensor = getattr(self, side)[adapter]
        held = self._ready.get((side, adapter))
        if held is None or not held.serves(x, angles, self.strength[adapter]):
            held = Ready.made(x, angles, self.strength[adapter], rotation)
            self._ready[side, adapter] = held
        return rotate_by(x, held.matrices, rotation)

    def _as_if_merged(self, x: Tensor) -> Any:
        """The base layer with the weight rotated by the active adapter, or None where that is not wanted. A token
        passes here at every layer: what costs more than microseconds stands last."""
        if self.training or self._disable_adapters or not self._wants_weight(x) or torch.compiler.is_compiling():
            return None
        kept, grad = self._kept_layer, torch.is_grad_enabled()
        if kept is not None and not grad and kept.serves(self._active_adapter, self.strength, self._modules):
            return kept.layer
        active = self._acting(self.active_adapters)
        if self.merged or len(active) != 1:
            return None
        learned = self._learned(active[0])
        if not self._may_cache(x, *(held[name] for held, name in learned)):
            return None
        if kept is None or not kept.serves(self._active_adapter, self.strength, self._modules):
            self._kept_layer = None  # two at once would take memory for nothing
            merged = self.merged_weight(active[0])
            base: nn.Module = self.base_layer
            kept = RotatedLayer.made(self._active_adapter, active[0], self.strength[active[0]], base, merged, learned)
            self._kept_layer = kept
        return kept.layer

    def _learned(self, adapter: str) -> list[tuple[Any, str]]:
        """Where angles ``[blocks, angles of a block]`` of each side and, if any, magnitudes ``[out]`` are held."""
        sides = [*self.rotations[adapter], MAGNITUDE]
        return [(held, adapter) for side in sides if adapter in (held := getattr(self, side)._parameters)]

    def drop_caches(self) -> None:
        """Forget what was composed for inference, and the memory it took."""
        self._ready.clear()
        self._kept_layer = None

    def _strong(self, values: Tensor, adapter: str) -> Tensor:
        strength = self.strength[adapter]
        return values if strength == 1 else values * strength

    def _scaled(self, y: Tensor, adapter: str) -> Tensor:
        if adapter not in self.butterfly_magnitude:
            return y
        return y * (1 + self._strong(self.butterfly_magnitude[adapter], adapter)).to(y.dtype)

    def train(self, mode: bool = True) -> ButterflyLayer:
        self.drop_caches()
        super().train(mode)
        return self

    def _apply(self, *args: Any, **kwargs: Any) -> ButterflyLayer:
        self.drop_caches()
        super()._apply(*args, **kwargs)
        return self

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Rotate the weight itself, in float64, rounded once. The weight as it was is kept until ``unmerge``."""
        for adapter in check_adapters_to_merge(self, adapter_names):
            if adapter not in self.rotations:
                continue
            layer = self.get_base_layer()
            self.drop_caches()  # of no use while merged
            if self._pristine is None:
                self._pristine = Pristine(layer)
            weight, bias = self.merged_weight(adapter)
            if safe_merge and not torch.isfinite(weight).all():
                raise AdapterError(f"{self.where}: adapter {adapter!r} makes weights that are no numbers; it is broken")
            if self.strength[adapter]:
                write_weight(layer, weight, bias)
            self.merged_adapters.append(adapter)

    def unmerge(self) -> None:
        """Put the weight back as it was before the first merge, bit for bit."""
        if self._pristine is not None:
            self._pristine.restore(self.get_base_layer())
        self._pristine = None
        self.merged_adapters.clear()

    @torch.no_grad()
    def merged_weight(self, adapter: str) -> tuple[Tensor, Tensor | None]:
        """Weight ``[out, in]`` and bias of the layer with ``adapter``, in float64."""
        layer: Any = self.get_base_layer()
        weight = exact(read_weight(layer))
        bias = None if layer.bias is None else exact(layer.bias.data)[None]
        if rotation := self.rotations[adapter].get(INPUT):
            weight = rotate_back(weight.contiguous(), self.exact_angles(INPUT, adapter), rotation)  # W R
        if rotation := self.rotations[adapter].get(OUTPUT):
            ready = matrices(self.exact_angles(OUTPUT, adapter), rotation, weight.dtype)
            weight = rotate_by(weight.T.contiguous(), ready, rotation).T  # R W
            bias = None if bias is None else rotate_by(bias, ready, rotation)
        if adapter in self.butterfly_magnitude:
            magnitude = 1 + self._strong(exact(self.butterfly_magnitude[adapter]), adapter)
            weight = magnitude[:, None] * weight
            bias = None if bias is None else magnitude * bias
        return weight, None if bias is None else bias[0]

    def exact_angles(self, side: str, adapter: str) -> Tensor:
        """Angles as they act, times the strength, in float64. ``side``: INPUT or OUTPUT."""
        return self._strong(exact(getattr(self, side)[adapter].detach()), adapter)

    def angles(self, adapter: str) -> Iterator[tuple[str, Rotation, Tensor]]:
        """Side, rotation and angles of ``adapter`` on this layer."""
        for side, rotation in self.rotations.get(adapter, {}).items():
            yield side.removeprefix("butterfly_"), rotation, getattr(self, side)[adapter]

    def __repr__(self) -> str:
        return "butterfly." + super().__repr__()


def _over(rows: Tensor, x: Tensor) -> Tensor:
    """A mask of rows, broadcast over ``x``."""
    return rows.view(-1, *[1] * (x.dim() - 1)).expand_as(x)
