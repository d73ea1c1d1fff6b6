"""Placing an adapter on a model with PEFT, and checking that the model computes the same before it is trained."""

from __future__ import annotations

import warnings
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model
from peft.utils.other import AuxiliaryTrainingWrapper
from transformers import PreTrainedModel

from slm_adapters.adaptation.forward_probe import observe
from slm_adapters.errors import AdapterError

_TOLERANCE = 1e-2  # of the largest logit; a new adapter changes nothing, but a wrapper may round differently


def inject(model: PreTrainedModel, config: PeftConfig) -> PeftModel:
    """Return ``get_peft_model(model, config)``, checked if other modules than adapters are trained.

    Raises AdapterError if PEFT refuses, wraps other modules than ``config`` names, or changes the output.
    """
    has_extra = bool(config.modules_to_save or getattr(config, "trainable_token_indices", None))
    before = observe(model, {}).logits if has_extra else None
    expected = {*(config.modules_to_save or ()), *(getattr(config, "trainable_token_indices", None) or ())}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*ensure_weight_tying.*")  # asked for where it applies
            adapted = get_peft_model(model, config)
    except AdapterError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise AdapterError(f"PEFT cannot place this adapter on a {type(model).__name__}: {reason}") from error
    if has_extra:
        _check_extra(adapted, expected, before)
        restore_tied_head(adapted)
    return adapted


def restore_tied_head(adapted: PeftModel, adapter_name: str = "default") -> None:
    """Correct what PEFT 0.21 leaves behind where it trains tied embeddings as one weight (``ensure_weight_tying``).

    It removes the head from ``modules_to_save``, by whose name it recognises tied embeddings when the adapter is loaded
    (GPT-2's input embeddings are called ``wte``, which it does not know), and swaps the head's numbers of features.

    Raises AdapterError if the embeddings are not one weight.
    """
    config: Any = adapted.peft_config[adapter_name]
    if not getattr(config, "ensure_weight_tying", False):
        return
    base: Any = adapted.get_base_model()
    layers = (base.get_input_embeddings(), base.get_output_embeddings())
    source, head = (_trained_copy(layer, adapter_name) for layer in layers)
    if source is None or head is None or source.weight is not head.weight:
        raise AdapterError(
            f"PEFT does not train the tied embeddings of a {type(base).__name__} as one weight; leave them out of "
            "--modules_to_save, or use --mode baseline"
        )
    head.out_features, head.in_features = head.weight.shape
    names = {name for name, module in base.named_modules() if any(module is layer for layer in layers)}
    config.modules_to_save = sorted({*(config.modules_to_save or ()), *names})


def _trained_copy(layer: Any, adapter_name: str) -> Any:
    copies = getattr(layer, "modules_to_save", {})
    return copies[adapter_name] if adapter_name in copies else None  # noqa: SIM401  # a ModuleDict has no get


def _check_extra(adapted: PeftModel, expected: set[str], before: Any) -> None:
    base = adapted.get_base_model()
    wrappers = {name: module for name, module in base.named_modules() if isinstance(module, AuxiliaryTrainingWrapper)}
    if missing := sorted(expected - wrappers.keys()):
        raise AdapterError(f"PEFT does not train {missing[0]} of this model; leave it out of --modules_to_save")
    observation = observe(adapted, wrappers)
    if unused := [name for name in wrappers if not observation.uses(name)]:
        raise AdapterError(f"module {unused[0]} is never called by the model; leave it out of --modules_to_save")
    after = observation.logits
    if before is None or after is None:
        return
    if (before.float() - after.float()).abs().max() > _TOLERANCE * before.float().abs().max():
        raise AdapterError(
            f"PEFT's copy of {', '.join(sorted(wrappers))} computes something else in this model; use --mode baseline"
        )
