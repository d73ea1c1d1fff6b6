"""Compiled attention to long texts, which are divided into chunks: against torch in float64."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("numba")

from slm_kv.compiled import operations
from slm_kv.compiled.operations import attention
from slm_kv.compiled.program import Program, StepContext, Workspace

pytestmark = pytest.mark.usefixtures("torch_threads")

GROUPS, PAGE_SIZE, THREADS = 2, 3, 3
LENGTHS = (1, 2, 127, 128, 129, 400)


class Texts:
    """Rows that attend to so many tokens each, on scattered pages."""

    def __init__(self, lengths: tuple[int, ...], dim: int, shared: int, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(0)
        self.lengths, self.heads, self.dim = lengths, GROUPS * shared, dim
        pages = -(-max(lengths) // PAGE_SIZE)
        shape = (2, len(lengths) * pages, PAGE_SIZE, GROUPS, dim)
        self.keys, self.values = torch.randn(shape, generator=generator).to(dtype)
        self.queries = torch.randn(len(lengths), self.heads * dim, generator=generator)
        order = torch.randperm(len(lengths) * pages, generator=generator)
        self.tables = order.to(torch.int32).view(len(lengths), pages).numpy()
        self.sinks = torch.randn(self.heads, generator=generator).numpy()

    def attend(self, rows: slice = slice(None), threads: int = 1, **options: float) -> Tensor:
        """The compiled operation's result [R, H * D]."""
        lengths = np.array(self.lengths[rows], np.int32)
        workspace, context = Workspace(len(lengths), THREADS), StepContext()
        q, out = workspace.rows(self.heads * self.dim), workspace.rows(self.heads * self.dim)
        workspace.array(q)[:] = self.queries[rows].numpy()
        context[StepContext.ROWS] = len(lengths)
        context.set_array(StepContext.PAGES, np.ascontiguousarray(self.tables[rows]))
        context[StepContext.PAGES_STRIDE] = self.tables.shape[1]
        context.set_array(StepContext.LENGTHS, lengths)
        sums = operations.attention_sums(workspace, self.heads, self.dim)
        pages = operations.Pages.of(self.keys, self.values)
        settings: dict[str, Any] = {"heads": self.heads, "sums": sums, "scale": 0.3, "sinks": self.sinks, **options}
        torch.set_num_threads(threads)
        Program([operations.attend(q, out, pages, **settings)], [workspace], THREADS).run(context)
        return torch.from_numpy(workspace.array(out).copy())

    def expected(self, window: int = 0, softcap: float = 0.0) -> Tensor:
        """The same in float64."""
        rows = []
        for row, length in enumerate(self.lengths):
            begin = max(0, length - window) if window else 0
            k, v = (
                pages[self.tables[row]].flatten(0, 1)[begin:length].double().repeat_interleave(self.heads // GROUPS, 1)
                for pages in (self.keys, self.values)
            )
            scores = 0.3 * torch.einsum("hd,thd->ht", self.queries[row].view(self.heads, -1).double(), k)
            if softcap:
                scores = softcap * torch.tanh(scores / softcap)
            scores = torch.cat((scores, torch.from_numpy(self.sinks).double()[:, None]), 1)
            rows.append(torch.einsum("ht,thd->hd", scores.softmax(-1)[:, :-1], v).flatten())
        return torch.stack(rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("dim", "shared", "window", "softcap"),
    [(64, 3, 0, 0.0), (16, 1, 0, 2.0), (80, 2, 150, 0.0), (48, 9, 0, 0.0), (32, 4, 5, 0.0), (20, 2, 140, 2.0)],
)
def test_chunks_add_up_to_the_attention_of_torch(
    dtype: torch.dtype, dim: int, shared: int, window: int, softcap: float
) -> None:
    texts = Texts(LENGTHS, dim, shared, dtype)
    result = texts.attend(window=window, softcap=softcap)
    expected = texts.expected(window, softcap)
    assert ((result - expected).abs() <= 2e-6 * expected.abs().amax(-1, keepdim=True) + 2e-6).all()


def test_the_longest_texts_have_longer_chunks() -> None:
    longest = attention.MAX_CHUNKS * attention.CHUNK
    texts = Texts((longest, longest + 1), 16, 1, torch.float32)
    assert torch.allclose(texts.attend().double(), texts.expected(), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("dim", [20, 32])
def test_a_row_alone_in_batches_and_on_three_threads_is_the_same_bit_for_bit(dim: int) -> None:
    texts = Texts(LENGTHS, dim, 3, torch.bfloat16)
    together = texts.attend()
    assert torch.equal(texts.attend(threads=3), together)
    for row in range(len(LENGTHS)):
        assert torch.equal(texts.attend(slice(row, row + 1), threads=2), together[row : row + 1])


@pytest.mark.parametrize("dim", [20, 32])
def test_a_key_that_is_not_a_number_makes_its_heads_nan_and_no_others(dim: int) -> None:
    texts = Texts(LENGTHS, dim, 1, torch.float32)
    texts.keys[texts.tables[5, 300 // PAGE_SIZE], 0, 1, 7] = torch.nan
    result = texts.attend()
    assert result[5, dim:].isnan().all()
    assert result[5, :dim].isfinite().all()
    assert result[:5].isfinite().all()


@pytest.mark.slow("compiles attention for another CPU")
@pytest.mark.parametrize("cpu", ["haswell", "generic"])
def test_attention_is_exact_without_avx512(cpu: str) -> None:
    code = (
        "import test_long_attention as t, torch\n"
        "for case in ((64, 3, 0, 0.0), (80, 5, 150, 2.0), (20, 1, 0, 0.0)):\n"
        "    for dtype in (torch.float32, torch.bfloat16):\n"
        "        t.test_chunks_add_up_to_the_attention_of_torch(dtype, *case)\n"
    )
    paths = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    environment = os.environ | {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": "", "PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=240)
