"""Plugs paged attention into transformers' attention interface: functions for attention and masks, registered by name.

Shapes: B x T tokens as the model has them, N = B * T rows, H heads, G heads of keys and values, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.utils import logging

from slm_kv.attention.masks import MaskRecorder
from slm_kv.attention.probe import AttentionProbe, layer_attention, layer_index, refuse
from slm_kv.attention.reference import Attend
from slm_kv.attention.step_batch import StepBatch
from slm_kv.errors import REMEDY, KVError, UnsupportedModel
from slm_kv.peft_models import base_model

# Without a mask function of the same name, transformers makes no masks: a row attends to its own sequence's pages.
IMPLEMENTATION = "slm_paged"
PROBE_IMPLEMENTATION = "slm_paged_probe"


@dataclass(frozen=True)
class AttentionStep:
    """The step that a forward pass computes."""

    batch: StepBatch
    attend: Attend


# Not keyword arguments of ``forward``: not all models pass theirs on to attention, and none to the mask function.
_step: ContextVar[AttentionStep | None] = ContextVar("step", default=None)
_probe: ContextVar[AttentionProbe | None] = ContextVar("probe", default=None)


@contextmanager
def attention_step(step: AttentionStep) -> Generator[None]:
    """Return a context in which models with paged attention compute ``step``."""
    token = _step.set(step)
    try:
        yield
    finally:
        _step.reset(token)


def install(models: Sequence[PreTrainedModel], positions: int) -> AttentionProbe:
    """Switch ``models`` to paged attention, and return what their layers require of it.

    Args:
        models: Models that will share pages.
        positions: The number of positions that a text can have. A sliding window of that length is none.

    Raises:
        UnsupportedModel: a model does not use transformers' attention interface in every layer or needs what paged
            attention lacks.
        KVError: the models differ, so that they cannot share pages.
    """
    _register()
    first, *others = [_install(model, positions) for model in models]
    if any(other != first for other in others):
        raise KVError("the models have different layers and cannot share pages: give models of one base")
    return first


def _install(model: PreTrainedModel, positions: int) -> AttentionProbe:
    name = type(base_model(model)).__name__
    try:
        set_attention(model, PROBE_IMPLEMENTATION)
    except (ValueError, KeyError):  # by how old the model's code is
        refuse(f"{name} cannot be given another attention implementation")
    if getattr(model.config, "_attn_implementation", None) != PROBE_IMPLEMENTATION:
        refuse(f"{name} has attention code of its own and does not use transformers' attention interface")
    probe = _run_probe(model, name, positions)
    if not probe.layers:
        refuse(f"no layer of {name} uses transformers' attention interface")
    if sorted(probe.layers) != list(range(len(probe.layers))):
        refuse(f"only some layers of {name} use transformers' attention interface ({_some(sorted(probe.layers))})")
    set_attention(model, IMPLEMENTATION)
    return probe


def _some(layers: list[int]) -> str:
    return ", ".join(map(str, layers[:4])) + (", ..." if len(layers) > 4 else "")


def set_attention(model: PreTrainedModel, implementation: str) -> None:
    """Set the attention implementation of ``model`` without the warning that transformers logs if it cannot."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        model.set_attn_implementation(implementation)
    finally:
        logging.set_verbosity(verbosity)


@cache
def _register() -> None:
    AttentionInterface.register(IMPLEMENTATION, _attention)
    AttentionInterface.register(PROBE_IMPLEMENTATION, _record_attention)
    AttentionMaskInterface.register(PROBE_IMPLEMENTATION, _record_mask)


def _attention(
    module: nn.Module,
    query_BHTD: Tensor,
    key_BGTD: Tensor,
    value_BGTD: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    step = _step.get()
    if step is None:
        raise KVError("this model has paged attention: call it through its Engine, or set another attn_implementation")
    scores = layer_attention(query_BHTD, options)
    query, key, value = (_rows(tensor) for tensor in (query_BHTD, key_BGTD, value_BGTD))
    out_NHD = step.attend(query, key, value, layer_index(module), step.batch, scores)
    return out_NHD.view(query_BHTD.shape[0], query_BHTD.shape[2], *out_NHD.shape[1:]), None


def _rows(tensor_BHTD: Tensor) -> Tensor:
    """[N, H, D]: a view, because either B or T is 1."""
    return tensor_BHTD.transpose(1, 2).flatten(0, 1)


def _record_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
) -> tuple[Tensor, None]:
    return _current_probe().record(module, query, key, value, attention_mask, options), None


def _record_mask(
    batch_size: int, q_length: int, kv_length: int, *, mask_function: Callable[..., Tensor], device: Any, **options: Any
) -> Tensor:
    return _current_probe().masks.record(mask_function, batch_size, q_length, kv_length, device)


def _current_probe() -> AttentionProbe:
    probe = _probe.get()
    assert probe is not None, "the probe's attention outside of a probe"
    return probe


def observe(model: PreTrainedModel, positions: int, token_id: int) -> AttentionProbe:
    """Run one token through a model with paged attention, at position 1, and record what its layers require."""
    set_attention(model, PROBE_IMPLEMENTATION)
    try:
        return _run_probe(model, type(base_model(model)).__name__, positions, token_id, 1)
    finally:
        set_attention(model, IMPLEMENTATION)


@torch.inference_mode()
def _run_probe(
    model: PreTrainedModel, name: str, positions: int, token_id: int = 0, position: int = 0
) -> AttentionProbe:
    """Run one token through the model and record what its layers require."""
    probe = AttentionProbe(MaskRecorder(positions))
    token = _probe.set(probe)
    try:
        ids, position_ids = (torch.tensor([[number]], device=model.device) for number in (token_id, position))
        model(ids, position_ids=position_ids, use_cache=False)
    except KVError:
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UnsupportedModel(f"{name} cannot be run on pages ({reason}){REMEDY}") from error
    finally:
        _probe.reset(token)
    return probe
