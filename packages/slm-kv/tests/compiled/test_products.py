"""Compiled products of a few rows and a packed weight."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_kv.compiled.block_weights import BlockWeight, pack_blocks
from slm_kv.linear.packed_linear import PackedLinear
from slm_testing.kv.cpu_features import ONEDNN_DTYPES

products = pytest.importorskip("slm_kv.compiled.products", reason="numba is not installed")
program = pytest.importorskip("slm_kv.compiled.program", reason="numba is not installed")

FORMATS: list[tuple[torch.dtype, int]] = [(torch.float32, 64), (torch.bfloat16, 64), (torch.bfloat16, 32)]
formats = pytest.mark.parametrize(("dtype", "width"), FORMATS)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def assert_near(y: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
    """The error is at most that of a sum in float32 in any order, and of rounding the result to its dtype."""
    exact = torch.nn.functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
    magnitudes = torch.nn.functional.linear(
        x.double().abs(), weight.double().abs(), None if bias is None else bias.double().abs()
    )
    terms = x.shape[-1] + 2
    rounding = torch.finfo(y.dtype).eps if y.dtype is torch.bfloat16 else 0.0
    assert y.shape == exact.shape
    assert ((y.double() - exact).abs() <= magnitudes * terms * 2**-24 + exact.abs() * rounding).all()


@given(st.integers(1, 150), st.integers(1, 70), st.integers(1, 32), st.sampled_from(FORMATS), st.booleans())
@settings(max_examples=80, deadline=None)
def test_products_are_exact_to_float32_for_any_shape(
    outputs: int, inputs: int, rows: int, form: tuple[torch.dtype, int], has_bias: bool
) -> None:
    weight, x = draw(outputs, inputs).to(form[0]), draw(rows, inputs)
    bias = draw(outputs) if has_bias else None
    y = products.multiply(x, pack_blocks(weight, form[1]), None if bias is None else bias.numpy())
    assert_near(y, x, weight, bias)


@formats
def test_a_row_alone_in_batches_and_on_two_threads_is_the_same_bit_for_bit(dtype: torch.dtype, width: int) -> None:
    weight, x = pack_blocks(draw(300, 49).to(dtype), width), draw(32, 49)
    with threads(1):
        alone = torch.cat([products.multiply(row, weight)[None] for row in x])
        for rows in range(1, 33):
            assert torch.equal(products.multiply(x[:rows], weight), alone[:rows])
    with threads(2):
        assert torch.equal(products.multiply(x, weight), alone)


@formats
def test_weights_of_one_input_are_divided_as_one_list_of_blocks(dtype: torch.dtype, width: int) -> None:
    """Each thread's share alone: together they write each column once, and nothing else."""
    weights = [draw(outputs, 24).to(dtype) for outputs in (192, 64, 50)]
    packed: list[tuple[BlockWeight, int]] = [
        (pack_blocks(weight, width), column) for weight, column in zip(weights, (0, 192, 320), strict=True)
    ]
    bias, x = draw(384), draw(5, 24)
    workspace = program.Workspace(rows=5)
    x_buffer, out = workspace.rows(24), workspace.rows(384)
    workspace.array(x_buffer)[:] = x.numpy()
    context = np.array([5] + [0] * 15, np.int64)
    written = []
    for thread in range(3):
        workspace.array(out)[:] = np.nan
        for operation, *arguments in products.product(packed, x_buffer, out, bias=bias.numpy()):
            call = next(
                f for f in map(products.compile_operation, products.OPERATIONS.values()) if f.address == operation
            )
            call.ctypes(context.ctypes.data, np.array(arguments, np.int64).ctypes.data, thread, 3)
        written.append(~np.isnan(workspace.array(out)))
        for weight, (_, column) in zip(weights, packed, strict=True):
            columns = range(column, column + len(weight))
            own = [c for c in columns if written[-1][0, c]]
            y = torch.from_numpy(workspace.array(out)[:, own])
            assert_near(y, x, weight[[c - column for c in own]], bias[own])
    counts = np.sum(written, axis=0)
    assert (counts[:, :256] == 1).all()
    assert (counts[:, 256:320] == 0).all()
    assert (counts[:, 320:370] == 1).all()
    assert (counts[:, 370:] == 0).all()
    shares = [mask[0].sum() for mask in written]
    assert max(shares) - min(shares) <= 64  # five blocks among three threads


@pytest.fixture
def called_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows in each call of ``multiply``."""
    calls: list[int] = []
    real = products.multiply

    def multiply(x: torch.Tensor, *rest: Any) -> torch.Tensor:
        calls.append(x.numel() // x.shape[-1])
        product: torch.Tensor = real(x, *rest)
        return product

    monkeypatch.setattr(products, "multiply", multiply)
    return calls


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", ONEDNN_DTYPES)
@pytest.mark.parametrize("shape", [(64, 32), (97, 33), (1, 4)])
def test_a_packed_layer_multiplies_few_rows_with_it(
    shape: tuple[int, int], dtype: torch.dtype, bias: bool, called_rows: list[int]
) -> None:
    weight, bias_O = draw(*shape).to(dtype), draw(shape[0]).to(dtype) if bias else None
    layer = PackedLinear(weight, bias_O)
    most = products.max_rows(layer.block_weight) if layer.block_weight else 0
    for rows in (1, 3, 8, 9):
        x = draw(1, rows, shape[1]).to(dtype)
        y = layer(x)
        assert y.dtype is dtype
        assert torch.allclose(
            y.double(),
            torch.nn.functional.linear(x.double(), weight.double(), None if bias_O is None else bias_O.double()),
            rtol=torch.finfo(dtype).eps,
            atol=1e-5,
        )
    layer(draw(0, shape[1]).to(dtype))
    assert called_rows == [rows for rows in (1, 3, 8, 9) if rows <= most]


def test_inputs_that_are_not_contiguous_are_read_correctly() -> None:
    weight, wide = draw(70, 8), draw(2, 24)
    for x in (wide[:, 8:16], wide[:, ::3]):
        assert_near(products.multiply(x, pack_blocks(weight)), x, weight)


@pytest.mark.parametrize("dtype", ONEDNN_DTYPES)
@pytest.mark.parametrize("count", [1, 3, 16])
def test_weights_packed_for_any_number_of_threads_are_read(dtype: torch.dtype, count: int) -> None:
    """oneDNN chooses other layouts for [96, 64] from three threads on, and for [192, 576] from four."""
    for shape in ((96, 64), (192, 576)):
        weight, x = draw(*shape).to(dtype), draw(20, shape[1]).to(dtype)
        with threads(count):
            layer = PackedLinear(weight, None)
            assert torch.get_num_threads() == count
            many_rows = layer(x)
        assert layer.block_weight is not None
        assert torch.equal(layer.dense_weight(), weight)
        exact = torch.nn.functional.linear(x.double(), weight.double())
        assert torch.allclose(many_rows.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-4)
        assert_near(products.multiply(x[:2], layer.block_weight), x[:2], weight)
