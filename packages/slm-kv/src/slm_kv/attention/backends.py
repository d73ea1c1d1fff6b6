"""Choosing the attention backend for a device, a dtype and a model's layers."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import torch

from slm_kv.attention import reference
from slm_kv.attention.probe import AttentionProbe
from slm_kv.attention.reference import Attend as Attend
from slm_kv.attention.trial import LayerKind, try_on_step
from slm_kv.optional_imports import import_optional
from slm_kv.pages.storage import LayerShape

logger = logging.getLogger(__name__)

REFERENCE = "plain torch"
LIBRARIES = {"cpu": "numba", "cuda": "Triton"}
TYPICAL_LAYER = LayerKind(6, LayerShape(2, 64), 0.125)


@dataclass(frozen=True)
class SelectedAttention:
    """A backend of paged attention.

    Attributes:
        attend: Computes the attention of a step.
        name: What it is, in words.
        problem: Why a faster one is not used, as one sentence with a remedy; empty if there is no faster one.
    """

    attend: Attend
    name: str = REFERENCE
    problem: str = ""

    @property
    def summary_line(self) -> str:
        """The name and the problem for the engine's summary; empty on a CPU without a problem."""
        if self.problem:
            return f"attention: {self.name}, because {self.problem}\n"
        return f"attention: {self.name}\n" if self.name.startswith("Triton") else ""


def select_attention(device: torch.device, dtype: torch.dtype) -> Attend:
    """Return the fastest paged attention that works here, as tried on a GPU with a typical layer."""
    return try_attention(device, dtype).attend


def attention_of(probe: AttentionProbe, page_size: int) -> SelectedAttention:
    """Return the fastest paged attention that works here for the layers of a model."""
    kinds = [
        LayerKind(
            probe.heads[layer],
            shape,
            probe.scores[layer].scale,
            probe.windows[layer],
            probe.scores[layer].softcap,
            probe.scores[layer].sinks is not None,
        )
        for layer, shape in probe.layers.items()
    ]
    return try_attention(probe.device, probe.dtype, kinds, page_size)


def try_attention(
    device: torch.device, dtype: torch.dtype, kinds: Iterable[LayerKind] = (TYPICAL_LAYER,), page_size: int = 16
) -> SelectedAttention:
    """Return the fastest paged attention that works here for layers of these kinds.

    On a GPU each kind is tried on one step and compared with the reference, because a kernel may not run, or not on
    this GPU. The results are remembered.
    """
    library = LIBRARIES.get(device.type)
    if library is None:
        return SelectedAttention(reference.attend)
    backend = import_optional(f"attention.{'gpu' if device.type == 'cuda' else 'cpu'}")
    if backend is None:
        return SelectedAttention(reference.attend, problem=f"{library} is not installed")
    if dtype not in backend.DTYPES:
        return SelectedAttention(reference.attend)
    problem, distinct_kinds = "", frozenset(kinds)
    for name, attend in backend.VARIANTS.items():
        problem = _problem(attend, device, dtype, distinct_kinds, page_size)
        if not problem:
            return SelectedAttention(attend, name)
        logger.info("%s do not work here: %s", name, problem)
    return SelectedAttention(reference.attend, problem=f"{library}'s kernels cannot be used: {problem}")


@lru_cache
def _problem(
    attend: Attend, device: torch.device, dtype: torch.dtype, kinds: frozenset[LayerKind], page_size: int
) -> str:
    """Why ``attend`` cannot be used; empty if it can. Those of a CPU are not tried: they run wherever numba does."""
    if device.type == "cpu":
        return ""
    return next(filter(None, (try_on_step(attend, device, dtype, kind, page_size) for kind in kinds)), "")
