"""Tests of the operations of compiled programs: each against torch in float64, and one thread against three."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("numba")

from slm_kv.compiled import operations
from slm_kv.compiled.program import Buffer, Instruction, Program, StepContext, Workspace, barrier

ROWS, THREADS = 3, 3
EPSILON = 2.0**-23  # of float32


pytestmark = pytest.mark.usefixtures("torch_threads")


class Step:
    """A workspace and a context of ``ROWS`` rows."""

    def __init__(self) -> None:
        self.workspace, self.context = Workspace(ROWS, THREADS), StepContext()
        self.context[StepContext.ROWS] = ROWS
        self.random = np.random.default_rng(0)

    def filled(self, width: int, factor: float = 1.0) -> tuple[Buffer, Tensor]:
        """A shared buffer of random numbers, and these in float64."""
        buffer = self.workspace.rows(width)
        self.workspace.array(buffer)[:] = factor * self.random.standard_normal((ROWS, width), np.float32)
        return buffer, self.read(buffer)

    def read(self, buffer: Buffer) -> Tensor:
        """A copy of a buffer in float64."""
        return torch.from_numpy(self.workspace.array(buffer).astype(np.float64))

    def run(self, *instructions: Instruction, changed: Buffer) -> Tensor:
        """Run with three threads and with one, from the same contents; they must agree bit for bit."""
        before = self.read(changed).numpy()
        results = []
        for threads in (THREADS, 1):
            self.workspace.array(changed)[:] = before
            torch.set_num_threads(threads)
            Program(instructions, [self.workspace], THREADS).run(self.context)
            results.append(self.read(changed))
        assert torch.equal(*results)
        return results[0]


def assert_near(result: Tensor, expected: Tensor, roundings: int) -> None:
    """Differences of at most ``roundings`` roundings of the largest number of each row."""
    bound = roundings * EPSILON * expected.abs().amax(-1, keepdim=True)
    assert ((result - expected).abs() <= bound).all(), ((result - expected).abs() / bound).max()


@pytest.mark.parametrize("width", [70, 192])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("affine", [False, True])
def test_norms_are_those_of_torch(width: int, center: bool, affine: bool) -> None:
    step = Step()
    x, x64 = step.filled(width)
    weight, bias = step.random.standard_normal((2, width), np.float32)
    out = step.workspace.private(width)
    w, b = (weight, bias) if affine else (None, None)
    result = step.run(operations.normalise(x, out, weight=w, bias=b, eps=1e-5, center=center), changed=out)
    centered = x64 - x64.mean(-1, keepdim=True) if center else x64
    expected = centered / (centered.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    if affine:
        expected = expected * torch.from_numpy(weight).double() + torch.from_numpy(bias).double()
    assert_near(result, expected, width)


ACTIVATIONS = {
    "silu": torch.nn.functional.silu,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "relu": torch.relu,
    "relu2": lambda x: torch.relu(x).square(),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}


@pytest.mark.parametrize("kind", list(ACTIVATIONS))
@pytest.mark.parametrize("gated", [False, True])
def test_activations_are_those_of_torch(kind: str, gated: bool) -> None:
    step = Step()
    (gate, gate64), (up, up64), out = step.filled(150, 4), step.filled(150), step.workspace.rows(150)
    result = step.run(operations.activate(kind, gate, up if gated else None, out), changed=out)
    assert_near(result, ACTIVATIONS[kind](gate64) * (up64 if gated else 1), 16)


def test_an_unknown_activation_is_refused() -> None:
    x = Workspace(ROWS).rows(64)
    with pytest.raises(ValueError, match="'mish'"):
        operations.activate("mish", x, None, x)


def test_sums_scaling_and_capping() -> None:
    step = Step()
    (x, x64), (y, y64) = step.filled(130, 9), step.filled(130)
    result = step.run(operations.add(x, y, 0.5), operations.scale(x, 0.25), operations.softcap(x, 2.0), changed=x)
    assert_near(result, 2 * torch.tanh((x64 + 0.5 * y64) / 4 / 2), 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim", [16, 24])
@pytest.mark.parametrize(
    ("rotary_dim", "interleaved", "normed", "window", "softcap", "sink"),
    [
        (1, False, True, 0, 0.0, False),
        (2, True, False, 5, 0.0, True),
        (2, False, False, 0, 3.0, False),
        (0, False, False, 0, 0.0, False),
    ],
)
def test_attention_stores_and_reads_the_pages(
    dtype: torch.dtype,
    dim: int,
    rotary_dim: int,
    interleaved: bool,
    normed: bool,
    window: int,
    softcap: float,
    sink: bool,
) -> None:
    """``rotary_dim`` is given as the divisor of the head's dimensions that are rotated; 0 for none."""
    step, heads, groups, page_size = Step(), 4, 2, 4
    qkv, qkv64 = step.filled((heads + 2 * groups) * dim)
    keys, values = (torch.randn(8, page_size, groups, dim).to(dtype) for _ in range(2))
    stored_keys, stored_values = keys.clone(), values.clone()
    positions, tables = np.array([0, 6, 9]), np.array([[5, 0, 0], [3, 1, 0], [0, 7, 2]], np.int32)
    slots = np.array([tables[row, p // page_size] * page_size + p % page_size for row, p in enumerate(positions)])
    for field, array in (
        (StepContext.POSITIONS, positions),
        (StepContext.SLOTS, slots),
        (StepContext.PAGES, tables),
        (StepContext.LENGTHS, (positions + 1).astype(np.int32)),
    ):
        step.context.set_array(field, array)
    step.context[StepContext.PAGES_STRIDE] = 3
    rotated = dim // rotary_dim if rotary_dim else 0
    cos, sin = step.random.standard_normal((2, 10, rotated), np.float32)
    weights, sinks = step.random.standard_normal((2, dim), np.float32), step.random.standard_normal(heads, np.float32)
    pages, out = operations.Pages.of(keys, values), step.workspace.rows(heads * dim)
    rotate = operations.rotate_and_store(
        qkv,
        pages,
        heads=heads,
        rotary=operations.Rotary(cos, sin, interleaved) if rotary_dim else None,
        query_norm=weights[0] if normed else None,
        key_norm=weights[1] if normed else None,
        eps=1e-5,
    )
    step.run(rotate, changed=qkv)
    attend = operations.attend(
        qkv,
        out,
        pages,
        heads=heads,
        sums=operations.attention_sums(step.workspace, heads, dim),
        scale=0.3,
        window=window,
        softcap=softcap,
        sinks=sinks if sink else None,
    )
    result = step.run(attend, barrier(), changed=out)

    for row, position in enumerate(positions):
        parts = qkv64[row].view(-1, dim)
        heads_qk = parts[: heads + groups].clone()
        if normed:
            heads_qk = heads_qk / (heads_qk.square().mean(-1, keepdim=True) + 1e-5).sqrt()
            heads_qk[:heads] *= torch.from_numpy(weights[0]).double()
            heads_qk[heads:] *= torch.from_numpy(weights[1]).double()
        if rotated:
            x, other = heads_qk[:, :rotated], torch.empty(heads + groups, rotated, dtype=torch.float64)
            if interleaved:
                other[:, ::2], other[:, 1::2] = -x[:, 1::2], x[:, ::2]
            else:
                other = torch.cat((-x[:, rotated // 2 :], x[:, : rotated // 2]), 1)
            cosine, sine = (torch.from_numpy(table[position]).double() for table in (cos, sin))
            heads_qk[:, :rotated] = x * cosine + other * sine
        page, slot = tables[row, position // page_size], position % page_size
        stored_keys[page, slot], stored_values[page, slot] = (
            heads_qk[heads:].to(dtype),
            parts[heads + groups :].to(dtype),
        )
        assert torch.allclose(
            keys[page, slot].float(),
            stored_keys[page, slot].float(),
            rtol=2**-7 if dtype is torch.bfloat16 else 1e-5,
            atol=1e-5,
        )
        assert torch.equal(values[page, slot], stored_values[page, slot])
        begin = max(0, position + 1 - window) if window else 0
        k, v = (
            t[tables[row]].flatten(0, 1)[begin : position + 1].double().repeat_interleave(2, 1) for t in (keys, values)
        )
        scores = 0.3 * torch.einsum("hd,thd->ht", heads_qk[:heads], k)
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        if sink:
            scores = torch.cat((scores, torch.from_numpy(sinks).double()[:, None]), 1)
        attention = scores.softmax(-1)[:, : len(k)]
        expected = torch.einsum("ht,thd->hd", attention, v).flatten()
        assert_near(result[row], expected, 256)
    written = torch.zeros(8, page_size, dtype=torch.bool)
    written.view(-1)[torch.from_numpy(slots)] = True
    assert torch.equal(keys[~written], stored_keys[~written])


def test_low_rank_updates_follow_each_rows_adapter() -> None:
    """The layer is the second of two with the same input: its columns of A x begin after those of the first."""
    step, before = Step(), 64
    (x, x64), (out, out64), down = step.filled(70), step.filled(130), step.workspace.rows(16)
    adapters = [
        (step.random.standard_normal((first + r, 70), np.float32), step.random.standard_normal((r, 130), np.float32))
        for first, r in ((3, 5), (0, 8))
    ]
    downs = np.array([[a.ctypes.data, len(a)] for a, _ in adapters])
    ups = np.array([[b.ctypes.data, len(b), len(a) - len(b)] for a, b in adapters])
    step.context.set_array(StepContext.ADAPTERS, np.array([1, -1, 0], np.int32))
    units = before // 64 + 3
    up = operations.low_rank_up(down, out, ups, before // 64, units)
    result = step.run(operations.low_rank_down(x, down, downs), barrier(), up, changed=out)
    for row, (a, b) in ((0, adapters[1]), (2, adapters[0])):
        a64, b64 = torch.from_numpy(a[len(a) - len(b) :]).double(), torch.from_numpy(b).double()
        assert_near(result[row], out64[row] + (a64 @ x64[row]) @ b64, 256)
    assert torch.equal(result[1], out64[1])


@pytest.mark.parametrize("in_place", [False, True])
def test_butterflies_are_products_with_each_rows_factors_and_magnitudes(in_place: bool) -> None:
    """Adapter 0 has two blocks of 24 = 4 * 6 columns and magnitudes; adapter 1 one block of 48 and no magnitudes."""
    step, width = Step(), 48
    x, x64 = step.filled(width)
    out = x if in_place else step.workspace.rows(width)
    plans, magnitude = [[(4, 1), (6, 4)], [(16, 1), (3, 16)]], step.random.standard_normal(width, np.float32)
    dense, lines, keep = [], [], []
    for number, plan in enumerate(plans):
        matrices = [step.random.standard_normal((m, m, width // m), np.float32) for m, _ in plan]
        factors = np.array([[a.ctypes.data, m, stride] for a, (m, stride) in zip(matrices, plan, strict=True)])
        block = max(m * stride for m, stride in plan)
        lines.append([factors.ctypes.data, len(plan), block, 0 if number else magnitude.ctypes.data])
        keep += [factors, matrices]
        product = torch.eye(width, dtype=torch.float64)
        for a, (m, stride) in zip(matrices, plan, strict=True):
            full = torch.zeros(width, width, dtype=torch.float64)
            for g in range(width // m):
                columns = torch.arange(m) * stride + g // stride * m * stride + g % stride
                full[columns[:, None], columns] = torch.from_numpy(a[:, :, g]).double()
            product = full @ product
        dense.append(product)
    step.context.set_array(StepContext.ADAPTERS, np.array([1, -1, 0], np.int32))
    result = step.run(operations.butterfly(x, out, np.array(lines)), changed=out)
    assert_near(result[0], dense[1] @ x64[0], 256)
    assert torch.equal(result[1], x64[1])
    assert_near(result[2], torch.from_numpy(magnitude).double() * (dense[0] @ x64[2]), 256)
