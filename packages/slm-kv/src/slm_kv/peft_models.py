"""Adapters of a PeftModel: loading, activating and inspecting. The only module that imports peft.

peft is imported inside functions: it takes seconds, and only models with adapters need it.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from slm_kv.errors import KVError

Factors = Sequence[tuple[Tensor, int]]  # float32 [G, m, m], and the stride of each


@runtime_checkable
class RotatedLayer(Protocol):
    """An adapter on a linear layer, y = W x + b, that computes y = magnitudes * R (W S x + b) in evaluation mode.

    A layer of any PEFT method that has these members can be computed by the compiled decode step, and its base layer
    packed. slm-adapters' butterflies have them; neither package imports the other.

    Attributes:
        base_layer: The linear layer.
        cache_weight: While it is False, the layer only calls its base layer, and does not read its weight. While it is
            None, the engine sets it to False. True keeps the base layer plain.
    """

    base_layer: Any
    cache_weight: bool | None

    def rotation_factors(self, side: Literal["input", "output"], adapter: str) -> Factors:
        """The factors of S (``input``) or R (``output``), the first to be applied first; none for the identity.

        A factor multiplies groups of m columns that are ``stride`` apart, group g by matrix g: group
        outer * stride + inner is the columns (outer * m + d) * stride + inner for d below m.
        """
        ...

    def magnitudes(self, adapter: str) -> Tensor | None:
        """The magnitudes [O]; None for ones."""
        ...


def rotated_layers(model: nn.Module) -> list[RotatedLayer]:
    """The layers of a model that are RotatedLayers."""
    return [module for module in model.modules() if isinstance(module, RotatedLayer)]


def add_adapter(model: Any, adapter_path: str) -> Any:
    """Wrap ``model`` in a PeftModel with the adapter saved in ``adapter_path``, unmerged."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, adapter_path)


def adapter_names(model: Any) -> tuple[str, ...]:
    """The names of the adapters of ``model``; empty for a model without peft."""
    return tuple(getattr(model, "peft_config", ()))


def active_adapter(model: Any) -> str | None:
    """The name of the active adapter; None for a model without adapters.

    Raises:
        KVError: several adapters are active at once.
    """
    if not adapter_names(model):
        return None
    active = model.active_adapter
    if isinstance(active, str):
        return active
    if len(active) == 1:
        return str(active[0])
    raise KVError(f"several adapters are active at once ({', '.join(active)}): activate one, or merge them")


def learns_prompt(model: Any, name: str) -> bool:
    """Return whether an adapter adds learned tokens or keys before the text, instead of changing layers."""
    return bool(getattr(model.peft_config[name], "is_prompt_learning", False))


def base_model(model: Any) -> Any:
    """``model`` without its PeftModel wrapper."""
    if not hasattr(model, "get_base_model"):
        return model
    return model.get_base_model() if adapter_names(model) else model.base_model.model  # PEFT's needs an adapter


def delete_adapter(model: Any, name: str) -> Any:
    """Delete an adapter in place, and return the model to call: without any adapter left, it has no wrapper.

    The layers of adapters stay. Without an adapter they call their base layers.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Adapter .* was active which is now deleted")
        model.delete_adapter(name)
    return model if adapter_names(model) else base_model(model)


def layers_without_adapters(model: nn.Module) -> dict[nn.Module, nn.Module]:
    """Map each layer that PEFT put into ``model``, the outermost only, to the model's own layer inside it."""
    own = ((module, without_adapters(module)) for module in model.modules())
    return {module: layer for module, layer in own if layer is not module}


def without_adapters(module: Any) -> Any:
    """The model's own module inside the wrappers that PEFT put around it."""
    if "peft" not in sys.modules:
        return module
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    while isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
        module = module.original_module if isinstance(module, AuxiliaryTrainingWrapper) else module.base_layer
    return module


def is_of_adapter(key: str, name: str) -> bool:
    """Return whether a tensor of a model's state belongs to the adapter ``name``."""
    return f".{name}." in key or key.endswith(f".{name}")


def low_rank_update(module: Any, name: str) -> tuple[Tensor, Tensor, float] | None:
    """LoRA's matrices A [r, I] and B [O, r] and the scaling: the layer's output is that of its base + scaling * B A x.

    None if the layer has no adapter of this name, if it is of another method, or if it computes more than this.
    """
    if "peft" not in sys.modules or not _is_plain_lora(module) or name not in module.lora_A:
        return None
    if name in module.lora_variant or module.merged_adapters:
        return None
    return module.lora_A[name].weight, module.lora_B[name].weight, float(module.scaling[name])


def forget_adapters(model: Any) -> None:
    """Remove PEFT's attribute from a copy of a base model whose layers have no adapters."""
    if "peft_config" in vars(model):
        del model.peft_config


def only_adapter(model: Any, name: str | None) -> AbstractContextManager[Any]:
    """Return a context in which the adapter ``name`` is the active one; None disables all adapters.

    Leaving the context enables adapters that it disabled. An adapter that it activated stays active.
    """
    if not adapter_names(model):
        return nullcontext()
    if name is None:
        return model.disable_adapter()
    if active_adapter(model) != name:
        model.set_adapter(name, inference_mode=True)
    return nullcontext()


@contextmanager
def keep_adapter_state(model: Any) -> Generator[None]:
    """Return a context after which the active adapter and each parameter's ``requires_grad`` are as they were."""
    original = active_adapter(model)
    requires_grad = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        with only_adapter(model, original):
            for parameter, trainable in requires_grad:
                parameter.requires_grad_(trainable)


def names_of_each_method(model: Any) -> list[str | None]:
    """The active adapter, and one of each other PEFT method; [None] for a model without adapters."""
    active = active_adapter(model)
    if active is None:
        return [None]
    methods = {model.peft_config[name].peft_type: name for name in reversed((active, *adapter_names(model)))}
    return list(reversed(methods.values()))


def each_adapter(model: Any) -> Generator[str | None]:
    """Yield None with all adapters disabled, then the name of each adapter while it is the active one.

    Closing the generator restores the active adapter and each parameter's ``requires_grad``, which peft changes.
    """
    with keep_adapter_state(model):
        for name in (None, *adapter_names(model)):
            with only_adapter(model, name):
                yield name


def supports_mixed_batches(model: Any) -> bool:
    """Return whether each row of a batch can use a different adapter (``adapter_names`` in PEFT's ``forward``)."""
    if not adapter_names(model):
        return False
    from peft.tuners.tuners_utils import BaseTunerLayer

    return all(_mixes_rows(module) for module in model.modules() if isinstance(module, BaseTunerLayer))


def reads_base_weight(module: nn.Module) -> bool:
    """Return whether ``module`` is an adapter layer that may read its base layer's weight.

    Plain LoRA only calls its base layer, and so does a RotatedLayer that was told to. DoRA, and every other method, may
    need the weight itself.
    """
    if "peft" not in sys.modules:  # then no module can be an adapter layer
        return False
    from peft.tuners.tuners_utils import BaseTunerLayer

    if isinstance(module, RotatedLayer) and module.cache_weight is False:
        return False
    return isinstance(module, BaseTunerLayer) and not _is_plain_lora(module)


def is_lora_matrix(name: str) -> bool:
    """Return whether ``name`` is that of one of LoRA's two small matrices."""
    return ".lora_A." in name or ".lora_B." in name


def _is_plain_lora(module: Any) -> bool:
    from peft.tuners.lora.layer import Linear as LoraLinear

    return type(module) is LoraLinear and not any(getattr(module, "use_dora", {}).values())


def _mixes_rows(layer: Any) -> bool:
    return hasattr(layer, "_mixed_batch_forward") or "adapter_names" in inspect.signature(layer.forward).parameters
