"""The product of a few rows and a weight, read in the memory that oneDNN packed."""

from typing import Any

import numpy as np
import pytest
import torch

from slm_kv.compiled import weight_blocks
from slm_kv.compiled.arrays import as_array
from slm_kv.linear.packed_linear import PackedLinear
from slm_testing.kv.cpu_features import ONEDNN_DTYPES

few_rows = pytest.importorskip("slm_kv.compiled.few_rows", reason="numba is not installed")


def layer(outputs: int, inputs: int, dtype: torch.dtype, bias: bool) -> tuple[PackedLinear, Any, Any]:
    """A packed layer, its weight and its bias."""
    draw = torch.Generator().manual_seed(outputs + inputs)
    weight = torch.randn(outputs, inputs, generator=draw).to(dtype)
    bias_O = torch.randn(outputs, generator=draw).to(dtype) if bias else None
    return PackedLinear(weight, bias_O), weight, bias_O


@pytest.fixture
def called_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows in each call of ``few_rows.linear``."""
    calls: list[int] = []
    real = few_rows.linear

    def linear(x: torch.Tensor, *rest: Any) -> torch.Tensor:
        calls.append(x.numel() // x.shape[-1])
        return real(x, *rest)

    monkeypatch.setattr(few_rows, "linear", linear)
    return calls


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", ONEDNN_DTYPES)
@pytest.mark.parametrize("shape", [(64, 32), (97, 32), (7, 12), (200, 52), (1, 4), (400, 8)])
def test_the_product_is_exact_to_the_precision_of_the_dtype(
    shape: tuple[int, int], dtype: torch.dtype, bias: bool, called_rows: list[int]
) -> None:
    packed, weight, bias_O = layer(*shape, dtype, bias)
    for rows in range(1, few_rows.MAX_ROWS + 1):
        x = torch.randn(1, rows, shape[1], generator=torch.Generator().manual_seed(rows)).to(dtype)
        exact = torch.nn.functional.linear(x.double(), weight.double(), None if bias_O is None else bias_O.double())
        result = packed(x)
        assert result.shape == exact.shape
        assert result.dtype is dtype
        assert torch.allclose(result.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-5)
        last = packed(x[0, -1])
        if packed._blocks is not None:
            assert torch.equal(last, result[0, -1])  # other rows change nothing
    expected_calls = [count for rows in range(1, few_rows.MAX_ROWS + 1) for count in (rows, 1)]
    assert called_rows == (expected_calls if packed._blocks is not None else [])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("outputs", [64, 300])
def test_blocks_laid_out_by_hand_give_the_product_on_any_cpu(outputs: int, dtype: torch.dtype) -> None:
    """Without this, bfloat16 would be tested only on CPUs with AVX-512, where oneDNN packs it."""
    draw, inputs = torch.Generator().manual_seed(outputs), 24
    weight = torch.randn(outputs, inputs, generator=draw).to(dtype)
    filled = (
        torch.nn.functional.pad(weight, (0, 0, 0, -outputs % 64)).view(-1, 64, inputs).transpose(1, 2)
    )  # [B, K, 64]
    if dtype is torch.bfloat16:
        halves = as_array(filled.contiguous()).astype(np.uint32)
        blocks = np.ascontiguousarray(halves[:, ::2] | halves[:, 1::2] << 16)
    else:
        blocks = filled.contiguous().numpy()
    for rows in range(1, few_rows.MAX_ROWS + 1):
        x = torch.randn(rows, inputs, generator=draw).to(dtype)
        result = few_rows.linear(x, blocks, np.empty(0, np.float32), outputs)
        assert torch.allclose(result.double(), x.double() @ weight.double().T, rtol=torch.finfo(dtype).eps, atol=1e-5)


@pytest.mark.parametrize("dtype", ONEDNN_DTYPES)
def test_the_layout_is_known_on_cpus_with_avx512(dtype: torch.dtype) -> None:
    packed, _, _ = layer(200, 52, dtype, False)
    in_tiles = dtype is torch.bfloat16 and torch.cpu._is_amx_tile_supported()  # oneDNN's own product is as fast there
    if torch.backends.cpu.get_cpu_capability() == "AVX512" and not in_tiles:
        assert packed._blocks is not None
    assert torch.equal(packed.dense_weight(), layer(200, 52, dtype, False)[1])


def test_more_rows_and_more_threads_go_to_onednn(called_rows: list[int]) -> None:
    packed, _, _ = layer(64, 32, torch.float32, True)
    packed(torch.randn(few_rows.MAX_ROWS + 1, 32))
    packed(torch.randn(0, 32))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        packed(torch.randn(1, 32))
    finally:
        torch.set_num_threads(threads)
    assert called_rows == []
    packed(torch.randn(few_rows.MAX_ROWS, 32))
    assert called_rows == ([few_rows.MAX_ROWS] if packed._blocks is not None else [])


@pytest.mark.parametrize("dtype", ONEDNN_DTYPES)
def test_memory_that_does_not_equal_the_weight_is_not_read(dtype: torch.dtype) -> None:
    packed, weight, _ = layer(130, 32, dtype, False)
    assert (weight_blocks.view_blocks(packed._packed, weight) is None) == (packed._blocks is None)
    other = weight.clone()
    other[-1, -1] += 1
    assert weight_blocks.view_blocks(packed._packed, other) is None
    assert weight_blocks.view_blocks(packed._packed, weight.flip(1)) is None
    odd, weight, _ = layer(64, 31, dtype, False)
    assert weight_blocks.view_blocks(odd._packed, weight) is None


def test_inputs_that_are_not_contiguous_are_read_correctly() -> None:
    packed, weight, _ = layer(70, 8, torch.float32, False)
    wide = torch.randn(2, 24)
    assert torch.allclose(packed(wide[:, 8:16]), wide[:, 8:16] @ weight.T, atol=1e-5)
    assert torch.allclose(packed(wide[:, ::3]), wide[:, ::3] @ weight.T, atol=1e-5)
