"""``ButterflyModel``, the tuner class of the butterfly method, and its registration with PEFT.

After registration ``get_peft_model``, ``PeftModel.from_pretrained`` and PEFT's other functions work for butterfly
adapters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any

from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)
from peft.tuners.lora import LoraModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from slm_adapters.base.layer_weights import features
from slm_adapters.base.quantization import is_quantized, keep_layout
from slm_adapters.butterfly.method.checkpoint_checks import CheckpointTensors
from slm_adapters.butterfly.method.config import ButterflyConfig, ButterflyType
from slm_adapters.butterfly.method.layer import ButterflyLayer
from slm_adapters.butterfly.method.placement import (
    NO_ADAPTER,
    PREFIX,
    MethodPrefix,
    check_adapter_name,
    check_place,
    is_never_called,
)
from slm_adapters.butterfly.method.shared_weights import saves_embeddings, shared_layers
from slm_adapters.butterfly.method.undo import undone_on_failure
from slm_adapters.butterfly.method.weighted_sum import check_combination, check_sum, fill_with_sum
from slm_adapters.errors import AdapterError
from slm_adapters.targets import is_named, shortest_names


class ButterflyModel(CheckpointTensors):
    """Wraps each target of a model with a ButterflyLayer."""

    prefix = PREFIX
    tuner_layer_cls = ButterflyLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012  # PEFT's name, never written to

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        return peft_config  # the targets need the model: _prepare_model sets them

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        """Set default targets. Refuse names that match no layer, before the model is changed.

        PEFT 0.21 accepts a list as long as one name in it matches.
        """
        self._shared_layers = shared_layers(model)
        if peft_config.target_modules in (None, "all-linear"):
            peft_config.target_modules = _linear_layer_names(model)
        targets = peft_config.target_modules
        for target in sorted(targets) if isinstance(targets, set | list) else ():
            if not any(is_named(name, [target]) for name, _ in model.named_modules()):
                raise AdapterError(f"target module {target!r} matches no layer of this model")

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Place the adapter called ``adapter_name`` on its targets. If that fails, the model is as it was before.

        All layers of ``model`` then compose their rotations together.
        """
        with undone_on_failure(model, adapter_name):
            check_adapter_name(adapter_name, model)
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        layers = [module for module in model.modules() if isinstance(module, ButterflyLayer)]
        for layer in layers[:1]:
            layer.compositions.share_with(layers)

    def _check_tied_modules(self, model: nn.Module, peft_config: Any) -> None:
        """Tie the trained copies of tied embeddings (``ensure_weight_tying``), whatever the embeddings are called.

        PEFT 0.21 looks for the names ``embed_tokens`` and ``lm_head``: it would untie GPT-2's ``wte``.
        """
        tied = self._get_module_names_tied_with_embedding() if peft_config.ensure_weight_tying else []
        if tied and saves_embeddings(model, peft_config.modules_to_save or ()):
            self._add_modules_to_save_to_tie(peft_config, tied)
        else:
            super()._check_tied_modules(model, peft_config)

    # PEFT ties the trained copies of tied embeddings (``ensure_weight_tying``) for LoRA only; nothing in it is LoRA's.
    _add_modules_to_save_to_tie = LoraModel._add_modules_to_save_to_tie

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
        check_place(parent, current_key)
        if reason := self._shared_layers.get(target):
            raise AdapterError(f"{current_key} {reason}")
        if isinstance(target, BaseTunerLayer):
            raise AdapterError(f"{current_key} already has an adapter of another method; merge or unload it first")
        keep_layout(target)
        layer = ButterflyLayer(target, adapter_name, peft_config, current_key)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        """Replace a module. PEFT 0.21 would set the weight of one that was trained in part to a plain tensor."""
        if isinstance(child, AuxiliaryTrainingWrapper):
            setattr(parent, child_name, new_module)
            return
        super()._replace_module(parent, child_name, new_module, child)

    def butterfly_layers(self) -> Iterator[tuple[str, ButterflyLayer]]:
        """Yield each adapted layer with its name in the base model (``layers`` is what bases call their blocks)."""
        for name, module in self.model.named_modules():
            if isinstance(module, ButterflyLayer):
                yield name, module

    def set_strength(self, strength: float, adapter_name: str | None = None) -> None:
        """Set the factor on the angles of an adapter, or of all active ones; 0 is the base, bit for bit.

        The strength is saved with the adapter.
        """
        for adapter in self.active_adapters if adapter_name is None else [adapter_name]:
            self._config_of(adapter)
            for _, layer in self.butterfly_layers():
                layer.set_scale(adapter, strength)
            self.peft_config[adapter].strength = float(strength)

    def cache_weights(self, keep: bool | None = True) -> None:
        """Set whether layers cache their rotated weight for inference: about the base's speed, for twice its memory.

        The cached weight is used in eval mode without gradients while one adapter is active. For several active
        adapters, for rows with different adapters, and over 4-bit and 8-bit weights, only the composed rotation is
        cached. The setting applies to layers that are adapted already.

        After writing to a base weight through ``.data``, or to one created in inference mode, call ``model.eval()``:
        torch does not count these writes.

        Args:
            keep: True caches the weight, with the active adapter used last, for any number of tokens; False never does.
                None restores the default: up to 8 tokens at once, on a CPU, in layers of up to 2**23 weights that have
                one adapter.
        """
        for _, layer in self.butterfly_layers():
            layer.cache.clear()
            layer.cache_weight = False if is_quantized(layer.get_base_layer()) else keep

    def add_weighted_adapter(
        self,
        adapters: Sequence[str],
        weights: Sequence[float],
        adapter_name: str,
        combination_type: str = "linear",
        **options: Any,
    ) -> None:
        """Add an adapter whose angles (and magnitudes minus one) are the weighted sums of those of ``adapters``.

        It is orthogonal like any other. Its strength is 1: each adapter's own strength is part of the sum, so one
        adapter with the weight 1 gives a copy with the same effect.

        Raises AdapterError, and leaves the model as it was, for an existing ``adapter_name``, another
        ``combination_type``, options of such types, and adapters of different shapes.
        """
        if adapter_name in self.peft_config:
            raise AdapterError(f"there is an adapter {adapter_name!r} already; choose another name, or delete it first")
        check_combination(combination_type, options)
        for name in adapters:
            self._config_of(name)
        check_sum(self.peft_config, adapters, weights, [layer for _, layer in self.butterfly_layers()])
        with undone_on_failure(self.model, adapter_name):
            self.peft_config[adapter_name] = deepcopy(self.peft_config[adapters[0]])
            self.peft_config[adapter_name].strength = 1.0
            self.inject_adapter(self.model, adapter_name)
            for _, layer in self.butterfly_layers():
                if adapter_name in layer.rotations:
                    fill_with_sum(layer, adapter_name, adapters, weights)

    def merge_adapter(self, adapter_names: str | Sequence[str] | None = None, safe_merge: bool = False) -> None:
        super().merge_adapter(self._existing(adapter_names), safe_merge)

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: str | Sequence[str] | None = None,
    ) -> Any:
        return super()._unload_and_optionally_merge(merge, progressbar, safe_merge, self._existing(adapter_names))

    def set_adapter(self, adapter_name: str | Sequence[str], inference_mode: bool = False) -> None:
        self._existing(adapter_name)
        super().set_adapter(adapter_name, inference_mode)

    def set_requires_grad(self, adapter_names: str | Sequence[str], requires_grad: bool = True) -> None:
        super().set_requires_grad(self._existing(adapter_names), requires_grad)

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete an adapter. If no other is active, the first that is left becomes active, in all layers.

        PEFT 0.21 lets each layer choose the first of its own.
        """
        active = self.active_adapters
        super().delete_adapter(adapter_name)
        others = [name for name in active if name != adapter_name] or list(self.peft_config)[:1]
        if others and adapter_name in active:
            self.set_adapter(others)

    def _existing(self, names: str | Sequence[str] | None) -> list[str] | None:
        """Return ``names`` as a list. Raises AdapterError for one that no adapter has, which PEFT 0.21 would ignore."""
        if names is None:
            return None
        adapters = [names] if isinstance(names, str) else list(names)
        for name in adapters:
            self._config_of(name)
        return adapters

    def _config_of(self, adapter: str) -> Any:
        if adapter not in self.peft_config:
            raise AdapterError(f"there is no adapter {adapter!r}; there are {', '.join(self.peft_config)}")
        return self.peft_config[adapter]

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Pass ``adapter_names``, a name for each row of the batch, to the layers, as PEFT's LoRA does."""
        names = kwargs.pop("adapter_names", None)
        if names is None:
            yield
            return
        if self.training:
            raise AdapterError("adapter_names is for inference; call model.eval() first")
        for name in set(names) - {NO_ADAPTER}:
            self._config_of(name)
        beams = kwargs.get("num_beams") or 1  # generate repeats each row for its beams
        row_names = [name for name in names for _ in range(beams)]
        hook = partial(_with_adapter_names, names=row_names)
        layers = [m for m in self.modules() if isinstance(m, ButterflyLayer | AuxiliaryTrainingWrapper)]
        handles = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _linear_layer_names(model: nn.Module) -> set[str]:
    """Return names of all linear layers, including adapted ones: last parts if possible.

    The output embeddings and layers that are never called are left out. With short names, ``layers_to_transform`` can
    still select blocks, and loading the adapter into a model with another number of blocks is noticed.
    """
    any_model: Any = model
    head = any_model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    never_called = (child for parent in model.modules() if is_never_called(parent) for child in parent.children())
    skipped = {head, *shared_layers(model), *never_called}
    layers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, ButterflyLayer)
        or (features(module) and module not in skipped and not name.endswith("base_layer"))
    ]
    return set(shortest_names(model, layers))


def _with_adapter_names(
    module: nn.Module, args: Any, kwargs: dict[str, Any], names: list[str]
) -> tuple[Any, dict[str, Any]]:
    return args, kwargs | {"adapter_names": names}


def register() -> None:
    """Add the method to PEFT's dictionaries. They are keyed by strings, so PeftType need not be extended."""
    name: Any = ButterflyType.BUTTERFLY
    PEFT_TYPE_TO_CONFIG_MAPPING[name] = ButterflyConfig
    PEFT_TYPE_TO_TUNER_MAPPING[name] = ButterflyModel
    PEFT_TYPE_TO_PREFIX_MAPPING[name] = MethodPrefix(ButterflyModel.prefix)
