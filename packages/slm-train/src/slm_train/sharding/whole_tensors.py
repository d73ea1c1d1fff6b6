"""Whole tensors from their parts on all processes, and back. Tensors that are not sharded pass through unchanged."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map


def whole(values: Tensor) -> Tensor:
    """Return ``values`` as a whole tensor. Every process must call this for a sharded one."""
    return values.full_tensor() if isinstance(values, DTensor) else values


def local_part(values: Tensor) -> Tensor:
    """Return this process's part of a sharded tensor, which may be empty."""
    return values.to_local() if isinstance(values, DTensor) else values


def part_for(parameter: Tensor, values: Tensor) -> Tensor:
    """Return this process's part of ``values``, which is whole and the same on every process.

    It is sharded as ``parameter`` is; if that is whole, ``values`` are returned. No process waits for another.
    """
    if not isinstance(parameter, DTensor) or isinstance(values, DTensor):
        return values
    on_device = values.to(parameter.device)
    return distribute_tensor(on_device, parameter.device_mesh, parameter.placements, src_data_rank=None)


def is_sharded(model: nn.Module) -> bool:
    """Return whether each process has only a part of the parameters of ``model``."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def whole_state(model: nn.Module, *, kept: bool) -> dict[str, Tensor]:
    """Return the state dict of a sharded model with whole tensors on the CPU. Every process must call this.

    Tied weights are one tensor. Processes that do not keep the state (``kept``) get none, and never hold more than
    one whole tensor.
    """
    gathered: dict[int, Tensor] = {}
    state: dict[str, Tensor] = {}
    for name, values in model.state_dict(keep_vars=True).items():
        if id(values) not in gathered:
            tensor = whole(values.detach())
            gathered[id(values)] = tensor.cpu() if kept else torch.empty(0)
        state[name] = gathered[id(values)]
    return state if kept else {}


def exchange_whole_states(optimizer: torch.optim.Optimizer, *, kept: bool) -> None:
    """Make ``optimizer``, of sharded parameters, return and load states of whole tensors, on the CPU.

    Every process must then call ``state_dict``; those that do not keep the state (``kept``) get its groups only. The
    state is that of an optimizer of whole parameters, so any number of processes can load it.
    """

    def gather(_: torch.optim.Optimizer, content: dict[str, Any]) -> dict[str, Any]:
        state: dict[int, Any] = {}
        for number, entries in content["state"].items():
            entries = tree_map(lambda leaf: whole(leaf).cpu() if isinstance(leaf, DTensor) else leaf, entries)
            if kept:
                state[number] = entries
        return content | {"state": state}

    optimizer.register_state_dict_post_hook(gather)
    optimizer.register_load_state_dict_pre_hook(_distribute)


def _distribute(optimizer: torch.optim.Optimizer, content: dict[str, Any]) -> dict[str, Any]:
    """Replace the whole tensors in an optimizer's state that are as large as their parameter by this process's part."""
    groups = zip(content["param_groups"], optimizer.param_groups, strict=False)  # torch reports another number of them
    parameters = {
        number: parameter
        for saved, group in groups
        for number, parameter in zip(saved["params"], group["params"], strict=False)
    }
    state = {
        number: {name: _distributed(parameters.get(number), value) for name, value in entries.items()}
        for number, entries in content["state"].items()
    }
    return content | {"state": state}


def _distributed(parameter: Tensor | None, value: Any) -> Any:
    is_part = isinstance(value, Tensor) and parameter is not None and value.shape == parameter.shape
    return part_for(parameter, value) if is_part and parameter is not None else value


def accept_whole_weights(model: nn.Module) -> None:
    """Let ``load_state_dict`` of a sharded model accept whole tensors, the same on every process."""
    for module in model.modules():
        if any(isinstance(parameter, DTensor) for parameter in module.parameters(recurse=False)):
            module.register_load_state_dict_pre_hook(_distribute_weights)


def _distribute_weights(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name, parameter in module.named_parameters(recurse=False):
        key = f"{prefix}{name}"
        if key in state and state[key].shape == parameter.shape:  # torch reports another shape
            state[key] = part_for(parameter, state[key])
