"""Trying target names with PEFT on a copy of the model, because PEFT rewrites or refuses some of them.

PEFT 0.21 turns names of former expert layers into 3-d expert weights, on which it refuses dropout, and refuses
projections whose weights a kernel reads directly. Both depend on tables of its own, so it is asked.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence

import torch
from peft import PeftConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel

from slm_adapters.errors import AdapterError
from slm_adapters.targets import is_named

MakeConfig = Callable[[Sequence[str]], PeftConfig]


def accepted_targets(model: PreTrainedModel, names: Sequence[str], make_config: MakeConfig) -> list[str]:
    """Return those of ``names`` with which PEFT adapts exactly the layers that they name.

    Raises AdapterError if there is none.
    """
    if _fault(model, names, make_config) is None:
        return list(names)
    faults = {name: _fault(model, [name], make_config) for name in names}
    accepted = [name for name in names if faults[name] is None]
    if not accepted:
        raise AdapterError(f"PEFT cannot adapt any linear layer of this {type(model).__name__}: {faults[names[0]]}")
    check_accepted(model, accepted, make_config)
    return accepted


def check_accepted(model: PreTrainedModel, names: Sequence[str], make_config: MakeConfig) -> None:
    """Raise AdapterError unless PEFT adapts exactly the layers that ``names`` name."""
    if fault := _fault(model, names, make_config):
        raise AdapterError(f"PEFT cannot adapt the target modules {', '.join(names)} of this model: {fault}")


def _fault(model: PreTrainedModel, names: Sequence[str], make_config: MakeConfig) -> str | None:
    trial = _copy_sharing_weights(model)
    expected = {name for name, _ in trial.named_modules() if is_named(name, names)}
    requires_grad = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            inject_adapter_in_model(make_config(names), trial, low_cpu_mem_usage=True)  # on the meta device
    except Exception as error:
        return str(error).strip().partition("\n")[0] or type(error).__name__
    finally:
        for parameter, trainable in requires_grad:  # shared with the copy, in which PEFT has frozen it
            parameter.requires_grad_(trainable)
    adapted = {name for name, module in trial.named_modules() if isinstance(module, BaseTunerLayer)}
    if adapted == expected:
        return None
    other = sorted(adapted ^ expected)
    return f"it would {'also adapt' if other[0] in adapted else 'leave out'} {other[0]}"


def _copy_sharing_weights(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of the modules with the same tensors: in ``deepcopy``'s memo they are already copied."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
