"""Guards around the functions of PEFT and transformers that load an adapter, where a method is not asked.

PEFT asks the method in ``set_peft_model_state_dict``, where ``ButterflyModel`` refuses most checkpoints. The rest needs
guards around functions of PEFT 0.21 and transformers 5:

- ``PeftModel.load_adapter`` does not read the configuration if the adapter's name exists, and leaves an adapter without
  values behind if loading fails, as ``PeftModel.from_pretrained`` does.
- ``load_adapter`` of transformers' models reports missing layers in the log, and checks no values.
- ``hotswap_adapter_from_state_dict`` is written for LoRA, and sets layers to zero before it fails.

Adapters of other methods pass through unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any

from peft import PeftConfig, PeftModel
from peft.utils import hotswap
from transformers.integrations.peft import PeftAdapterMixin

from slm_adapters.butterfly.method.checkpoint_checks import check_loaded, check_same_function, parameters_by_module
from slm_adapters.butterfly.method.config import ButterflyType
from slm_adapters.butterfly.method.undo import undone_on_failure
from slm_adapters.errors import AdapterError

Function = Callable[..., Any]


def install() -> None:
    """Put the guards in place. It is called once, when the method is registered."""
    _guard(PeftModel, "load_adapter", _load_into_peft_model)
    _guard(PeftAdapterMixin, "load_adapter", _load_into_transformers_model)
    _guard(hotswap, "hotswap_adapter", _hotswap)
    _guard(hotswap, "hotswap_adapter_from_state_dict", _hotswap)
    _guard(PeftModel, "from_pretrained", _create_from_pretrained)


def _guard(owner: Any, name: str, guard: Function) -> None:
    """Replace function ``name`` of a class or module by ``guard``, which gets the original as its first argument."""
    attribute = vars(owner)[name]
    function = attribute.__func__ if isinstance(attribute, classmethod) else attribute
    original = getattr(function, "replaces", function)  # without slm_adapters.peft_registration.import_peft_first

    @wraps(original)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        return guard(original, *args, **kwargs)

    setattr(owner, name, classmethod(guarded) if isinstance(attribute, classmethod) else guarded)


def _create_from_pretrained(create: Function, cls: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
    with undone_on_failure(model):
        return create(cls, model, *args, **kwargs)


def _load_into_peft_model(
    load: Function, model: Any, model_id: Any, adapter_name: str, *args: Any, **kwargs: Any
) -> Any:
    if _is_butterfly(model, adapter_name):
        hub_options, _ = model._split_kwargs(dict(kwargs))
        saved = PeftConfig.from_pretrained(model_id, **hub_options)
        check_same_function(adapter_name, model.peft_config[adapter_name], saved)
    with undone_on_failure(model):
        return load(model, model_id, adapter_name, *args, **kwargs)


def _load_into_transformers_model(load: Function, model: Any, *args: Any, **kwargs: Any) -> Any:
    before = set(getattr(model, "peft_config", None) or ())
    parameters = parameters_by_module(model)
    with undone_on_failure(model):
        loading_info = load(model, *args, **kwargs)
        for adapter_name in set(model.peft_config) - before:
            if _is_butterfly(model, adapter_name):
                check_loaded(model, adapter_name, loading_info, parameters)
    return loading_info


def _hotswap(swap: Function, *args: Any, **kwargs: Any) -> Any:
    arguments = signature(swap).bind(*args, **kwargs).arguments
    if _is_butterfly(arguments["model"], arguments["adapter_name"]):
        raise AdapterError(
            f"PEFT's hot-swapping supports LoRA only; load_adapter(folder, {arguments['adapter_name']!r}) replaces the "
            "angles of a butterfly adapter"
        )
    return swap(*args, **kwargs)


def _is_butterfly(model: Any, adapter_name: str) -> bool:
    configs = getattr(model, "peft_config", None) or {}
    return adapter_name in configs and configs[adapter_name].peft_type == ButterflyType.BUTTERFLY
