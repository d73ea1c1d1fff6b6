"""Parameters of a butterfly layer: angles and magnitudes of each adapter, and the merged weight computed from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from slm_adapters.base.layer_weights import features, is_sharded, read_weight
from slm_adapters.butterfly.composition import plan, to_float64
from slm_adapters.butterfly.method.config import ButterflyConfig
from slm_adapters.butterfly.method.inference_cache import InferenceCache
from slm_adapters.butterfly.method.shared_compositions import SharedCompositions
from slm_adapters.butterfly.method.sides import INPUT, OUTPUT, rotations_by_side
from slm_adapters.butterfly.rotate import rotate_back, rotate_by_matrices, rotation_matrices
from slm_adapters.butterfly.structure import Rotation
from slm_adapters.butterfly.value_checks import check_strength
from slm_adapters.errors import AdapterError

MAGNITUDE = "butterfly_magnitude"


class ButterflyParameters(nn.Module, BaseTunerLayer):  # type: ignore[misc]  # PEFT is partly typed
    """Holds the base layer and, by adapter, angles (radians) and with ``scale`` magnitudes minus one."""

    base_layer: Any
    get_base_layer: Any
    set_adapter: Any
    active_adapters: Any
    adapter_layer_names = (INPUT, OUTPUT, MAGNITUDE)
    other_param_names = ("rotations", "strength", "angle_dropout")

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: ButterflyConfig, layer_name: str):
        super().__init__()
        self.base_layer = base_layer
        self.layer_name = layer_name
        shape = features(self.get_base_layer())
        if shape is None:
            kind = type(base_layer).__name__
            raise AdapterError(f"{layer_name} (class {kind}) is not a linear layer, which butterfly adapters need")
        self.in_features, self.out_features = shape
        self.butterfly_input = nn.ParameterDict()
        self.butterfly_output = nn.ParameterDict()
        self.butterfly_magnitude = nn.ParameterDict()
        self.rotations: dict[str, dict[str, Rotation]] = {}
        self.strength: dict[str, float] = {}
        self.angle_dropout: dict[str, float] = {}
        self.merged_adapters: list[str] = []
        self.cache = InferenceCache()
        self.compositions = SharedCompositions()  # replaced by those of the model
        self._disable_adapters = False
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: ButterflyConfig, **_: Any) -> None:
        """Add another adapter. Raises AdapterError, with the layer's name, for a side that cannot be rotated."""
        rotations = rotations_by_side(self.layer_name, self.in_features, self.out_features, config)
        self.cache.clear()
        self.rotations[adapter_name] = rotations
        self.strength[adapter_name] = config.strength
        self.angle_dropout[adapter_name] = config.angle_dropout
        for side, rotation in rotations.items():
            getattr(self, side)[adapter_name] = self._new_parameter(rotation.angle_shape, config)
        if config.scale:
            self.butterfly_magnitude[adapter_name] = self._new_parameter((self.out_features,), config)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def delete_adapter(self, adapter_name: str) -> None:
        self.cache.clear()
        self.compositions.forget(adapter_name)
        super().delete_adapter(adapter_name)

    def _new_parameter(self, shape: tuple[int, ...], config: ButterflyConfig) -> nn.Parameter:
        weight = self.get_base_layer().weight
        values = torch.zeros(shape, dtype=self._parameter_dtype())  # on the meta device under PEFT's low_cpu_mem_usage
        if values.device.type != "meta":
            values = values.to(weight.device)
            if not config.init_weights:
                nn.init.normal_(values, std=0.1)
        return nn.Parameter(values)

    def _parameter_dtype(self) -> torch.dtype:
        """At least float32, whatever the base has: an optimizer's small steps would be lost in bfloat16's 8 bits."""
        return torch.float64 if self.get_base_layer().weight.dtype == torch.float64 else torch.float32

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        """Move the adapter's parameters, which PEFT calls for after loading with ``low_cpu_mem_usage``.

        PEFT 0.21 would also cast them to the base's dtype, and so round the angles of the file.
        """
        device = device or self.get_base_layer().weight.device
        for part in self.adapter_layer_names:
            values = getattr(self, part)._parameters.get(adapter_name)
            if values is not None and values.device.type != "meta":
                values.data = values.data.to(device, self._parameter_dtype())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ButterflyParameters:
        """Move or cast the layer (``to``, ``half`` and others). Angles and magnitudes stay in float32 or more."""
        self.cache.clear()  # the tensors are replaced
        self.compositions.clear()
        for name, child in self.named_children() if recurse else ():
            child._apply(partial(_at_least_float32, fn) if name in self.adapter_layer_names else fn)
        super()._apply(fn, recurse=False)
        return self

    def set_scale(self, adapter: str, scale: float) -> None:
        """Set the strength of ``adapter``: the factor on its angles and on its magnitudes minus one."""
        check_strength(scale)
        if adapter in self.strength:
            if adapter in self.merged_adapters:
                raise AdapterError(
                    f"cannot change the strength of adapter {adapter!r} while it is merged; unmerge it first"
                )
            self.strength[adapter] = float(scale)

    def scale_layer(self, scale: float) -> None:
        for adapter in self.active_adapters:
            if adapter in self.strength:
                self.set_scale(adapter, self.strength[adapter] * scale)

    @torch.no_grad()
    def merged_weight(self, adapter: str) -> tuple[Tensor, Tensor | None]:
        """Return the weight ``[out, in]`` and bias of the layer with ``adapter`` merged, in float64.

        Raises AdapterError for a weight that is distributed over processes.
        """
        layer: Any = self.get_base_layer()
        if is_sharded(layer.weight):
            raise AdapterError(
                f"{self.layer_name} is distributed over processes (FSDP2) and cannot be merged; save the gathered "
                "adapter, and merge it in one process"
            )
        weight = to_float64(read_weight(layer))
        bias = None if layer.bias is None else to_float64(layer.bias.data)[None]
        if rotation := self.rotations[adapter].get(INPUT):
            weight = rotate_back(weight.contiguous(), self.exact_angles(INPUT, adapter), rotation)  # W R
        if rotation := self.rotations[adapter].get(OUTPUT):
            matrices = rotation_matrices(self.exact_angles(OUTPUT, adapter), rotation, weight.dtype)
            weight = rotate_by_matrices(weight.T.contiguous(), matrices, rotation).T  # R W
            bias = None if bias is None else rotate_by_matrices(bias, matrices, rotation)
        if adapter in self.butterfly_magnitude:
            magnitude = 1 + self._with_strength(to_float64(self.butterfly_magnitude[adapter]), adapter)
            weight = magnitude[:, None] * weight
            bias = None if bias is None else magnitude * bias
        return weight, None if bias is None else bias[0]

    def exact_angles(self, side: str, adapter: str) -> Tensor:
        """Return the angles of ``side`` (INPUT or OUTPUT) times the strength, in float64."""
        return self._with_strength(to_float64(getattr(self, side)[adapter].detach()), adapter)

    def angles(self, adapter: str) -> Iterator[tuple[str, Rotation, Tensor]]:
        """Yield the side, rotation and angles of ``adapter`` on this layer."""
        for side, rotation in self.rotations.get(adapter, {}).items():
            yield side.removeprefix("butterfly_"), rotation, getattr(self, side)[adapter]

    @torch.no_grad()
    def rotation_factors(self, side: str, adapter: str) -> tuple[tuple[Tensor, int], ...]:
        """The factors of the rotation of the ``input`` or ``output``, the first to be applied first; none without one.

        Each has matrices ``[G, m, m]`` in float32 and a stride: group g = outer * stride + inner is the coordinates
        (outer * m + d) * stride + inner for d below m, which matrix g multiplies. With ``magnitudes`` and
        ``cache_weight``, this lets inference engines (``slm_kv.RotatedLayer``) compute the layer themselves.
        """
        name = f"butterfly_{side}"
        rotation = self.rotations.get(adapter, {}).get(name)
        if rotation is None or not self.strength[adapter]:
            return ()
        matrices = rotation_matrices(self.exact_angles(name, adapter), rotation, torch.float32)
        factors = plan(rotation, matrices[0].device.type)
        return tuple((matrix, factor.stride) for matrix, factor in zip(matrices, factors, strict=True))

    @torch.no_grad()
    def magnitudes(self, adapter: str) -> Tensor | None:
        """The factor ``[out]`` of each output feature; None without ``scale``."""
        if adapter not in self.butterfly_magnitude or not self.strength[adapter]:
            return None
        return 1 + self._with_strength(self.butterfly_magnitude[adapter], adapter)

    def _with_strength(self, values: Tensor, adapter: str) -> Tensor:
        strength = self.strength[adapter]
        return values if strength == 1 else values * strength

    def _parameters_of(self, adapter: str) -> list[tuple[Any, str]]:
        """Return the dictionary and key of the angles of each side and, if there are any, of the magnitudes."""
        parts = [getattr(self, name)._parameters for name in (*self.rotations[adapter], MAGNITUDE)]
        return [(tensors, adapter) for tensors in parts if adapter in tensors]


def _at_least_float32(fn: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
    """Apply ``fn`` to ``tensor``, but cast it to float32 where ``fn`` would cast it to fewer bits."""
    result = fn(tensor)
    return tensor.to(result.device, torch.float32) if result.dtype.itemsize < 4 else result
