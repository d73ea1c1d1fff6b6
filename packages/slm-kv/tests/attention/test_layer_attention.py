"""Windows, soft caps and sinks: every backend that runs on a CPU against dense attention in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_kv.attention import cpu, reference
from slm_kv.attention.layer_attention import LayerAttention
from slm_kv.attention.reference import Attend
from slm_testing.kv.paged_steps import dense_attention, random_step

BACKENDS = [pytest.param(reference.attend, id="reference"), pytest.param(cpu.attend, id="cpu")]


@pytest.mark.parametrize("attend", BACKENDS)
@given(
    lengths=st.lists(st.integers(1, 40), max_size=4),
    chunks=st.lists(st.tuples(st.integers(0, 20), st.integers(2, 12)), max_size=2),
    shape=st.sampled_from([(4, 4, 8), (6, 2, 16), (3, 1, 5), (4, 2, 64)]),
    page_size=st.sampled_from([1, 3, 16]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    window=st.sampled_from([None, 1, 2, 5, 7, 16, 100]),
    softcap=st.sampled_from([None, 0.7, 30.0]),
    has_sinks=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=80, deadline=None)
def test_attention_equals_dense_attention_and_reads_nothing_before_the_window(
    attend: Attend,
    lengths: list[int],
    chunks: list[tuple[int, int]],
    shape: tuple[int, int, int],
    page_size: int,
    dtype: torch.dtype,
    window: int | None,
    softcap: float | None,
    has_sinks: bool,
    seed: int,
) -> None:
    if not lengths and not chunks:
        return
    torch.manual_seed(seed)
    step = random_step(lengths, chunks, shape, page_size, dtype, window)
    sinks = torch.randn(shape[0]).to(dtype) * 2 if has_sinks else None
    options = LayerAttention(0.4, window, softcap, sinks)
    result = attend(step.query_NHD, step.key_NGD, step.value_NGD, 0, step.batch, options)
    assert result.dtype is dtype
    tolerance = 4e-6 if dtype is torch.float32 else 3e-2
    assert torch.allclose(result.double(), dense_attention(step, options), atol=tolerance, rtol=1e-2)


@pytest.mark.parametrize("attend", BACKENDS)
@pytest.mark.parametrize(
    "options",
    [
        LayerAttention(0.4, window=5),
        LayerAttention(0.4, softcap=0.7),
        LayerAttention(0.4, sinks=torch.tensor([1.0, -1.0, 2.0, 0.0])),
    ],
    ids=["window", "softcap", "sinks"],
)
def test_each_option_changes_the_attention_of_decode_rows_and_of_chunks(
    attend: Attend, options: LayerAttention
) -> None:
    torch.manual_seed(0)
    step = random_step([12], [(9, 4), (0, 8)], (4, 2, 8), 3, torch.float32)
    inputs = step.query_NHD, step.key_NGD, step.value_NGD, 0, step.batch
    difference = (attend(*inputs, options) - attend(*inputs, LayerAttention(0.4))).abs().amax(dim=(1, 2))
    assert (difference[[0, 1, 2, 3, 4, 12]] > 1e-2).all()  # the first rows of the second chunk are within the window


@pytest.mark.parametrize("options", [LayerAttention(1.0, softcap=30.0), LayerAttention(1.0, sinks=torch.ones(1))])
def test_a_nan_in_the_window_is_kept_and_large_scores_do_not_overflow(options: LayerAttention) -> None:
    step = random_step([1, 4], [], (1, 1, 4), 4, torch.float32)
    query, key, value = torch.full((2, 1, 4), 100.0), torch.full((2, 1, 4), 100.0), torch.ones(2, 1, 4)
    key[1] = torch.nan
    out = cpu.attend(query, key, value, 0, step.batch, options)
    assert out[0].tolist() == [[pytest.approx(1.0, abs=1e-6)] * 4]
    assert out[1].isnan().all()


def test_a_nan_sink_makes_the_output_nan() -> None:
    step = random_step([3], [], (2, 1, 4), 4, torch.float32)
    options = LayerAttention(1.0, sinks=torch.tensor([torch.nan, 0.0]))
    out = cpu.attend(step.query_NHD, step.key_NGD, step.value_NGD, 0, step.batch, options)
    assert out[0, 0].isnan().all()
    assert not out[0, 1].isnan().any()
