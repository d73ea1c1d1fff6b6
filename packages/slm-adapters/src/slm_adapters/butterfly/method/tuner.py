"""The method as PEFT knows it: ``get_peft_model``, ``PeftModel.from_pretrained`` and all that goes with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from slm_adapters.base.layer_weights import features
from slm_adapters.base.quantization import is_quantized, keep_layout
from slm_adapters.butterfly.method.config import ButterflyConfig, ButterflyType
from slm_adapters.butterfly.method.layer import ButterflyLayer
from slm_adapters.errors import AdapterError

BASE = "__base__"  # PEFT's word for a row without an adapter


class ButterflyModel(BaseTuner):  # type: ignore[misc]  # PEFT is typed in part
    """Puts a ButterflyLayer around each target."""

    prefix = "butterfly_"
    tuner_layer_cls = ButterflyLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012  # PEFT's name, never written to

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        return peft_config  # targets are filled in below, where the model is at hand

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        """Without names, those of all linear layers; names that match nothing are refused before the model is
        touched: PEFT takes a partly wrong list."""
        if peft_config.target_modules in (None, "all-linear"):
            peft_config.target_modules = _linear_names(model)
        names = [name for name, _ in model.named_modules()]
        listed = peft_config.target_modules
        for wanted in sorted(listed) if isinstance(listed, set | list) else ():
            if not any(name == wanted or name.endswith(f".{wanted}") for name in names):
                raise AdapterError(f"target module {wanted!r} matches no layer of this model")

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, ButterflyLayer):
            target.update_layer(adapter_name, peft_config)
            return
        if isinstance(target, BaseTunerLayer):
            raise AdapterError(f"{current_key} already has an adapter of another method; merge or unload it first")
        keep_layout(target)
        layer = ButterflyLayer(target, adapter_name, peft_config, current_key)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def layers(self) -> Iterator[tuple[str, ButterflyLayer]]:
        """Each adapted layer by its name in the base model."""
        for name, module in self.model.named_modules():
            if isinstance(module, ButterflyLayer):
                yield name, module

    def set_strength(self, strength: float, adapter_name: str | None = None) -> None:
        """Let the angles of an adapter (of all active ones by default) count ``strength`` times; 0 is the base,
        bit for bit. Saved with the adapter."""
        for adapter in self.active_adapters if adapter_name is None else [adapter_name]:
            self._known(adapter)
            for _, layer in self.layers():
                layer.set_scale(adapter, strength)
            self.peft_config[adapter].strength = float(strength)

    def cache_weights(self, keep: bool | None = True) -> None:
        """In eval mode without gradients, keep each layer's rotated weight beside its own: the cost of the base, and
        as much memory again.

        ``keep``: True, for every token, for the one active adapter that was used last; None, as a new layer does by
        itself: for up to 8 tokens at once, on a CPU, in layers of up to 2**23 weights that carry one adapter; False,
        never. For the layers adapted so far. Where several adapters are active, where rows differ, and over 4-bit and
        8-bit weights, the rotation alone is kept. After writing to a base weight through ``.data``, or to one made in
        inference mode, call ``model.eval()``: torch does not count that as a change."""
        for _, layer in self.layers():
            layer.drop_caches()
            layer.cache_weight = False if is_quantized(layer.get_base_layer()) else keep

    def add_weighted_adapter(
        self,
        adapters: Sequence[str],
        weights: Sequence[float],
        adapter_name: str,
        combination_type: str = "linear",
        **options: Any,
    ) -> None:
        """A new adapter whose angles (and magnitudes less one) are the weighted sums of those of ``adapters``.

        Orthogonal like any other. Raises AdapterError for another ``combination_type`` and for adapters of
        different shapes.
        """
        if combination_type != "linear" or options:
            raise AdapterError(
                f"butterfly adapters are combined by their angles (combination_type='linear'), not by "
                f"{', '.join([combination_type, *options])}"
            )
        if len(adapters) != len(weights) or not adapters:
            raise AdapterError(f"{len(adapters)} adapters and {len(weights)} weights do not make a sum")
        configs = [self._known(name) for name in adapters]
        self._check_alike(adapters, configs)
        self.peft_config[adapter_name] = deepcopy(configs[0])
        self.peft_config[adapter_name].strength = 1.0
        self.inject_adapter(self.model, adapter_name)
        for _, layer in self.layers():
            if adapter_name in layer.rotations:
                _fill_with_sum(layer, adapter_name, adapters, weights)

    def _known(self, adapter: str) -> Any:
        if adapter not in self.peft_config:
            raise AdapterError(f"there is no adapter {adapter!r}; there are {', '.join(self.peft_config)}")
        return self.peft_config[adapter]

    def _check_alike(self, adapters: Sequence[str], configs: Sequence[Any]) -> None:
        for name, config in zip(adapters, configs, strict=True):
            for setting in ("block_size", "stages", "side", "scale"):
                if getattr(config, setting) != getattr(configs[0], setting):
                    raise AdapterError(
                        f"adapters {adapters[0]!r} and {name!r} differ in {setting}; their angles do not add"
                    )
        for where, layer in self.layers():
            if len({name in layer.rotations for name in adapters}) > 1:
                raise AdapterError(f"not all of {', '.join(adapters)} lie on {where}; their angles do not add")

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Hand ``adapter_names``, a name for each row of the batch, to the layers; PEFT's LoRA does likewise."""
        names = kwargs.pop("adapter_names", None)
        if names is None:
            yield
            return
        if self.training:
            raise AdapterError("adapter_names is for inference; call model.eval() first")
        for name in set(names) - {BASE}:
            self._known(name)
        beams = kwargs.get("num_beams") or 1
        repeated = [name for name in names for _ in range(beams)]
        hook = partial(_with_names, names=repeated)
        layers = [m for m in self.modules() if isinstance(m, ButterflyLayer | AuxiliaryTrainingWrapper)]
        handles = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Refuse what PEFT would load in part or in silence: missing layers, other shapes, no numbers."""
        found = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        _check_checkpoint(_parameters(model, adapter_name), found)
        return found


def _linear_names(model: nn.Module) -> set[str]:
    """Last names of the linear layers, adapted ones too; the output layer is left out. Short names, so that
    ``layers_to_transform`` has its say, and another number of blocks is noticed on loading."""
    held: Any = model
    head = held.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, ButterflyLayer)
        or (features(module) and module is not head and not name.endswith("base_layer"))
    }


def _with_names(module: nn.Module, args: Any, kwargs: dict[str, Any], names: list[str]) -> tuple[Any, dict[str, Any]]:
    return args, kwargs | {"adapter_names": names}


@torch.no_grad()
def _fill_with_sum(layer: ButterflyLayer, into: str, adapters: Sequence[str], weights: Sequence[float]) -> None:
    for part in layer.adapter_layer_names:
        held = getattr(layer, part)
        if into in held:
            shares = zip(adapters, weights, strict=True)
            held[into].copy_(sum(weight * layer.strength[name] * held[name] for name, weight in shares))


def _parameters(model: nn.Module, adapter_name: str) -> dict[str, Tensor]:
    """Angles and magnitudes of an adapter, by their names in the model."""
    return {
        f"{name}.{part}.{adapter_name}": getattr(layer, part)[adapter_name]
        for name, layer in model.named_modules()
        if isinstance(layer, ButterflyLayer)
        for part in layer.adapter_layer_names
        if adapter_name in getattr(layer, part)
    }


def _check_checkpoint(wanted: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    for name, parameter in wanted.items():
        where = name.removeprefix("base_model.model.").rpartition(".")[0]  # without the adapter's name
        if name not in found:
            raise AdapterError(f"the checkpoint has nothing for {where}; it was made for other layers or another side")
        values = found[name]
        if values.shape != parameter.shape:
            raise AdapterError(
                f"{where}: the checkpoint has the shape {list(values.shape)}, the model {list(parameter.shape)}; it "
                "was made for another width, block size or number of stages"
            )
        if not torch.isfinite(values).all():
            raise AdapterError(f"{where}: the checkpoint has angles that are no numbers; it is broken")
    for name in found:
        if ".butterfly_" in name and name not in wanted:
            where = name.removeprefix("base_model.model.")
            raise AdapterError(f"the checkpoint has {where}, which the model has not; it was made for other layers")


def register() -> None:
    """Make the method known to PEFT under its name."""
    name: Any = ButterflyType.BUTTERFLY
    PEFT_TYPE_TO_CONFIG_MAPPING[name] = ButterflyConfig
    PEFT_TYPE_TO_TUNER_MAPPING[name] = ButterflyModel
    PEFT_TYPE_TO_PREFIX_MAPPING[name] = ButterflyModel.prefix
