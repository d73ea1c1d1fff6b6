"""Trying a backend on one step before it is used: it must run on this machine, and compute what the reference does.

A Triton kernel is compiled on its first launch. That needs a C compiler, the headers of Python and a GPU that this
version of Triton supports.

Shapes: N rows of the step, H heads, G heads of keys and values, D dimensions of a head.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from slm_kv.attention import reference
from slm_kv.attention.layer_attention import LayerAttention
from slm_kv.attention.reference import Attend
from slm_kv.attention.step_batch import Chunk, StepBatch
from slm_kv.pages.storage import LayerShape, PagedStorage

# Errors of a correct backend are a tenth of these; values are standard normal.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
# (past tokens, rows) of each text: decode rows, the longest over several parts of gpu.PART_TOKENS; then chunks.
TEXTS = ((0, 1), (20, 1), (1100, 1), (0, 20), (37, 9))


@dataclass(frozen=True)
class LayerKind:
    """What decides which kernels a layer needs.

    Attributes:
        heads: Query heads, H.
        shape: That of keys.
        scale: See LayerAttention.
        window: See LayerAttention.
        softcap: See LayerAttention.
        has_sinks: Whether the layer has attention sinks.
    """

    heads: int
    shape: LayerShape
    scale: float
    window: int | None = None
    softcap: float | None = None
    has_sinks: bool = False


def try_on_step(attend: Attend, device: torch.device, dtype: torch.dtype, kind: LayerKind, page_size: int) -> str:
    """Compute a step's attention with ``attend``.

    Returns:
        Why ``attend`` cannot be used, with a remedy; empty if it can.
    """
    try:
        difference = _difference(attend, device, dtype, kind, page_size)
    except Exception as error:  # of the compiler, the driver, torch or Triton
        return describe(error)
    if difference <= TOLERANCE[dtype]:
        return ""
    return (
        f"they differ from plain torch by {difference:.2g} where {TOLERANCE[dtype]:g} is allowed; "
        "another version of torch and Triton may support this GPU"
    )


def describe(error: Exception) -> str:
    """Return the cause of a failed launch and a remedy."""
    text = str(error).strip().partition("\n")[0]
    if isinstance(error, subprocess.CalledProcessError):
        return "the C compiler fails to build Triton's launcher; install gcc and python3-dev (the headers of Python)"
    if isinstance(error, FileNotFoundError) or "C compiler" in text:
        return f"Triton finds no C compiler ({text}); install gcc and python3-dev"
    return f"{text or type(error).__name__}; another version of torch and Triton may support this GPU"


@torch.inference_mode()
def _difference(attend: Attend, device: torch.device, dtype: torch.dtype, kind: LayerKind, page_size: int) -> float:
    """The largest absolute difference to the reference in float64 on the CPU; infinite if what is stored differs."""
    ours, stored = _run(attend, device, dtype, dtype, kind, page_size)
    expected, stored_expected = _run(reference.attend, torch.device("cpu"), torch.float64, dtype, kind, page_size)
    if not torch.equal(stored, stored_expected):
        return float("inf")
    return float((ours - expected).abs().nan_to_num(float("inf")).max())


def _run(
    attend: Attend, device: torch.device, dtype: torch.dtype, rounded: torch.dtype, kind: LayerKind, page_size: int
) -> tuple[Tensor, Tensor]:
    """Compute the step in ``dtype``, from values in ``rounded``; return the attention and what is stored in float64."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(rounded).to(device, dtype)

    tables = _tables(page_size)
    storage = PagedStorage([kind.shape], sum(map(len, tables)), page_size, dtype, device)
    for pages in storage.keys + storage.values:
        pages.copy_(normal(*pages.shape))
    step = _step(storage, tables)
    query, key, value = (  # not contiguous, as in a model
        normal(heads, len(step.slots), kind.shape.dim).transpose(0, 1)
        for heads in (kind.heads, kind.shape.heads, kind.shape.heads)
    )
    sinks = torch.linspace(-2, 2, kind.heads).to(rounded).to(device, dtype) if kind.has_sinks else None
    out = attend(query, key, value, 0, step, LayerAttention(kind.scale, kind.window, kind.softcap, sinks))
    stored = torch.stack(storage.keys + storage.values)
    return out.cpu().double(), stored.cpu().double()


def _tables(page_size: int) -> list[np.ndarray]:
    """The pages of each text of the step, in random order."""
    counts = [-(-(past + rows) // page_size) for past, rows in TEXTS]
    order = np.random.default_rng(0).permutation(sum(counts))
    return np.split(order, np.cumsum(counts)[:-1])


def _step(storage: PagedStorage, tables: list[np.ndarray]) -> StepBatch:
    size, device = storage.page_size, storage.device
    slots, chunks, first = [], [], 0
    for (past, rows), table in zip(TEXTS, tables, strict=True):
        tokens = np.arange(past, past + rows)
        slots.append(table[tokens // size] * size + tokens % size)
        if rows > 1:
            chunks.append(Chunk(first, first + rows, past, table, torch.from_numpy(table).to(device)))
        first += rows
    lengths = [past + 1 for past, rows in TEXTS if rows == 1]
    pages = np.zeros((len(lengths), max(map(len, tables[: len(lengths)]))), np.int32)
    for row, table in enumerate(tables[: len(lengths)]):
        pages[row, : len(table)] = table
    return StepBatch(
        storage,
        torch.from_numpy(np.concatenate(slots)).to(device),
        torch.from_numpy(pages).to(device),
        torch.tensor(lengths, dtype=torch.int32, device=device),
        tuple(chunks),
    )
