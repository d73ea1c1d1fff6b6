"""Weights in blocks: views of what oneDNN packed, and our own layout."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_kv.compiled.block_weights import BlockWeight, pack_blocks, view_onednn
from slm_kv.linear.packed_linear import ROWS_HINT
from slm_testing.kv.cpu_features import ONEDNN_DTYPES


def draw(outputs: int, inputs: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(outputs + inputs)).to(dtype)


def view(weight: torch.Tensor) -> tuple[torch.Tensor, BlockWeight | None]:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS_HINT)
    return packed, view_onednn(packed, weight)


@given(
    st.integers(1, 200), st.integers(1, 80), st.sampled_from([torch.float32, torch.bfloat16]), st.sampled_from([32, 64])
)
@settings(max_examples=40, deadline=None)
def test_packing_is_undone_bit_for_bit_as_a_whole_and_by_rows(
    outputs: int, inputs: int, dtype: torch.dtype, width: int
) -> None:
    weight = draw(outputs, inputs, dtype)
    packed = pack_blocks(weight, width)
    assert torch.equal(packed.dense(), weight)
    ids = torch.arange(outputs).flip(0)[::2]
    assert torch.equal(packed.rows(ids), weight[ids])
    assert packed.address % 64 == 0
    assert packed.nbytes == -(-outputs // width) * packed.block_bytes


@pytest.mark.parametrize("dtype", ONEDNN_DTYPES)
@pytest.mark.parametrize("shape", [(64, 32), (97, 32), (200, 53), (7, 13)])
def test_what_onednn_packs_on_cpus_with_avx512_is_read_in_place(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight = draw(*shape, dtype)
    packed, blocks = view(weight)
    if torch.backends.cpu.get_cpu_capability() == "AVX512" and shape[1] > 13:
        assert blocks is not None
    if blocks is not None:
        assert torch.equal(blocks.dense(), weight)
        assert torch.equal(blocks.rows(torch.tensor([shape[0] - 1, 0])), weight[[shape[0] - 1, 0]])
        assert blocks.address == torch.ops.mkldnn.data_ptr(packed)
        assert blocks.owner is packed


@pytest.mark.parametrize("dtype", ONEDNN_DTYPES)
def test_memory_that_does_not_equal_the_weight_is_not_read(dtype: torch.dtype) -> None:
    weight = draw(130, 32, dtype)
    packed, _ = view(weight)
    other = weight.clone()
    other[-1, -1] += 1
    assert view_onednn(packed, other) is None
    assert view_onednn(packed, weight.flip(1)) is None
