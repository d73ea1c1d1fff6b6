"""Widened blocks hold the numbers that their format describes, in the layouts of any CPU, on any number of threads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from slm_kv.compiled.block_weights import pack_blocks
from slm_kv.compiled.quantised.widening import widen
from slm_kv.linear.block_formats import BlockFormat, quantise_weight

FORMATS: tuple[BlockFormat, ...] = ("q8", "q4", "q41")
TARGETS = [(torch.float32, 64), (torch.bfloat16, 64), (torch.bfloat16, 32)]


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("dtype", "width"), TARGETS)
@pytest.mark.parametrize("block_format", FORMATS)
def test_the_chosen_blocks_are_widened(block_format: BlockFormat, dtype: torch.dtype, width: int) -> None:
    packed = quantise_weight(torch.randn(190, 96, generator=torch.Generator().manual_seed(0)), block_format)
    target = pack_blocks(torch.full((128, 96), 7.0, dtype=dtype), width)
    widen(packed.view(), 1, 3, target)
    expected = packed.dense(1, 3)
    precision = 1e-6 if dtype is torch.float32 else 2**-8
    assert ((target.dense().float() - expected).abs() <= precision * expected.abs() + 1e-6).all()


@pytest.mark.parametrize("bits", [0x7C00, 0x7C01, 0x7FFF, 0xFFFF])
@pytest.mark.parametrize(("dtype", "width"), TARGETS)
@pytest.mark.parametrize("block_format", FORMATS)
def test_a_scale_that_is_no_number_gives_no_numbers(
    block_format: BlockFormat, dtype: torch.dtype, width: int, bits: int
) -> None:
    packed = quantise_weight(torch.ones(64, 32), block_format)
    packed.scales().view(torch.int16)[0, 0, 5] = int(np.uint16(bits).view(np.int16))
    target = pack_blocks(torch.zeros(64, 32, dtype=dtype), width)
    widen(packed.view(), 0, 1, target)
    finite = target.dense().isfinite().all(1)
    assert not finite[5]
    assert finite.sum() == 63
