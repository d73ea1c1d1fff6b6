"""Compiled products with weights in 8 and 4 bits."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_kv.compiled.block_weights import BlockWeight, aligned_zeros

products = pytest.importorskip("slm_kv.compiled.products", reason="numba is not installed")
program = pytest.importorskip("slm_kv.compiled.program", reason="numba is not installed")

ZERO = {"q8": 128, "q4": 8, "q41": 0}
GROUP_BYTES = {"q8": 2176, "q4": 1152, "q41": 1280}


def weight_of(form: str, outputs: int, inputs: int, extreme: bool = False) -> tuple[BlockWeight, np.ndarray]:
    """A weight of random codes, laid out by hand, and its numbers [O, I] in float64."""
    draw, groups, blocks = np.random.default_rng(outputs + inputs), inputs // 32, -(-outputs // 64)
    codes = draw.integers(0, 256 if form == "q8" else 16, (64 * blocks, groups, 32)).astype(np.uint8)
    if extreme:
        codes[:] = codes.max()
    scales = (draw.standard_normal((64 * blocks, groups)) * 0.1).astype(np.float16)
    scales[0, 0] = np.float16(3e-7)  # subnormal
    minima = draw.standard_normal((64 * blocks, groups)).astype(np.float16)
    memory = aligned_zeros(blocks, groups * GROUP_BYTES[form])
    for output in range(64 * blocks):
        block, lane = divmod(output, 64)
        for group in range(groups):
            view = memory[block].reshape(groups, -1)[group]
            own = codes[output, group]
            if form == "q8":
                view[:2048].reshape(8, 64, 4)[:, lane] = own.reshape(8, 4)
            else:
                pairs = own.reshape(4, 2, 4)
                view[:1024].reshape(4, 64, 4)[:, lane] = pairs[:, 0] + 16 * pairs[:, 1]
            numbers = view[2048 if form == "q8" else 1024 :].view(np.float16)
            numbers[lane] = scales[output, group]
            if form == "q41":
                numbers[64 + lane] = minima[output, group]
    dense = (codes.astype(np.float64) - ZERO[form]) * scales[..., None]
    if form == "q41":
        dense += minima[..., None]
    return BlockWeight(form, memory, outputs, inputs), dense.reshape(64 * blocks, -1)[:outputs]


def rounded(x: np.ndarray) -> np.ndarray:
    """Inputs rounded to 8 bits in groups of 32, in float64."""
    groups = x.reshape(len(x), -1, 32)
    largest = np.abs(groups).max(2, keepdims=True)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
    result: np.ndarray = np.rint(groups * inverse).astype(np.float64) * (largest / np.float32(127))
    return result.reshape(x.shape)


def assert_exact(form: str, outputs: int, inputs: int, rows: int, extreme: bool = False) -> None:
    """The only error besides that of rounding the inputs is that of sums in float32."""
    weight, dense = weight_of(form, outputs, inputs, extreme)
    draw = np.random.default_rng(rows)
    x, bias = draw.standard_normal((rows, inputs)).astype(np.float32), draw.standard_normal(outputs).astype(np.float32)
    if extreme:
        x[:] = np.sign(x[:, :1])  # all products of a row have one sign: sums of 16 bits would saturate
    x[0, :32] = 0
    y = products.multiply(torch.from_numpy(x), weight, bias).double().numpy()
    exact = rounded(x) @ dense.T + bias
    largest_code = np.abs(dense).max() + 1
    bound = (inputs // 32 + 8) * 2**-23 * (np.abs(rounded(x)).sum(1, keepdims=True) * largest_code + np.abs(bias))
    assert (np.abs(y - exact) <= bound).all(), (form, outputs, inputs, rows, np.abs(y - exact).max())


@pytest.mark.parametrize("form", ZERO)
@pytest.mark.parametrize("extreme", [False, True])
def test_integer_sums_are_exact(form: str, extreme: bool) -> None:
    for outputs, inputs, rows in ((64, 32, 1), (100, 96, 2), (7, 64, 3), (130, 160, 9), (64, 320, 32)):
        assert_exact(form, outputs, inputs, rows, extreme)


@given(st.integers(1, 130), st.integers(1, 4), st.integers(1, 32), st.sampled_from(sorted(ZERO)))
@settings(max_examples=25, deadline=None)
def test_integer_sums_are_exact_for_any_shape(outputs: int, groups: int, rows: int, form: str) -> None:
    assert_exact(form, outputs, 32 * groups, rows)


@pytest.mark.parametrize("form", ZERO)
def test_a_row_alone_in_batches_and_on_two_threads_is_the_same_bit_for_bit(form: str) -> None:
    weight, _ = weight_of(form, 200, 96)
    x = torch.randn(32, 96, generator=torch.Generator().manual_seed(1))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = torch.cat([products.multiply(row, weight)[None] for row in x])
        for rows in range(1, 33):
            assert torch.equal(products.multiply(x[:rows], weight), alone[:rows])
        torch.set_num_threads(2)
        assert torch.equal(products.multiply(x, weight), alone)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_nan_and_infinity_stay_visible(number: float) -> None:
    weight, _ = weight_of("q8", 64, 64)
    x = torch.ones(2, 64)
    x[1, 3] = number
    y = products.multiply(x, weight)
    assert y[0].isfinite().all()
    assert not y[1].isfinite().any()


def test_quantised_weights_need_whole_groups_and_scratch() -> None:
    weight, _ = weight_of("q4", 64, 64)
    buffer = program.Buffer(0, 256, 0, 64)
    with pytest.raises(ValueError, match="need scratch"):
        products.product([(weight, 0)], buffer, buffer)
    with pytest.raises(ValueError, match="not 40"):
        products.product([(BlockWeight("q4", weight.memory, 64, 40), 0)], buffer, buffer, scratch=buffer)


@pytest.mark.slow("compiles each product for another CPU")
@pytest.mark.parametrize("cpu", ["haswell", "generic"])
def test_sums_are_exact_without_avx512(cpu: str) -> None:
    code = (
        "import test_quantised_products as t, test_products as p, torch\n"
        "for form in t.ZERO:\n"
        "    for extreme in (False, True):\n"
        "        for rows in (1, 2, 3, 4): t.assert_exact(form, 70, 64, rows, extreme)\n"
        "for dtype, width in p.FORMATS:\n"
        "    for rows in (1, 2, 3, 4):\n"
        "        x, w = p.draw(rows, 33), p.draw(70, 33).to(dtype)\n"
        "        p.assert_near(p.products.multiply(x, p.pack_blocks(w, width)), x, w)\n"
    )
    paths = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    environment = os.environ | {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": "", "PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=240)
