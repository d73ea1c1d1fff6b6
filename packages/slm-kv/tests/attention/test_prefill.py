"""Attention of prompt chunks without masks, with torch's kernels for GPUs replaced by what a CPU can compute."""

import inspect
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.bias import CausalBias
from torch.utils._python_dispatch import TorchDispatchMode

from slm_kv.attention import prefill
from slm_kv.attention.layer_attention import LayerAttention
from slm_kv.attention.prefill import AttendChunks
from slm_testing.kv.paged_steps import RandomStep, dense_attention, random_step

SHAPES = [(4, 4, 8), (6, 2, 16), (3, 1, 5)]
CHUNKS = st.lists(st.tuples(st.integers(0, 20), st.integers(2, 12)), min_size=1, max_size=3)
WINDOWS = st.sampled_from([None, 1, 7, 100])


def attend_chunks(step: RandomStep, options: LayerAttention, attend: AttendChunks) -> None:
    """Store the step's keys and values, and assert that ``attend`` gives its chunks' attention."""
    storage = step.batch.storage
    storage.keys[0].flatten(0, 1)[step.batch.slots] = step.key_NGD
    storage.values[0].flatten(0, 1)[step.batch.slots] = step.value_NGD
    out = torch.full_like(step.query_NHD, torch.nan)
    attend(step.query_NHD, step.key_NGD, step.value_NGD, 0, step.batch, options, out)
    rows = slice(step.batch.decode_rows, None)
    assert torch.allclose(out[rows].double(), dense_attention(step, options)[rows], atol=4e-6)
    assert out[: rows.start].isnan().all()


@pytest.mark.parametrize(("flash", "efficient"), [(True, True), (False, True), (False, False)])
@given(chunks=CHUNKS, shape=st.sampled_from(SHAPES), window=WINDOWS, softcap=st.sampled_from([None, None, 0.7]))
@settings(max_examples=15, deadline=None)
def test_chunks_without_masks_equal_float64(
    flash: bool,
    efficient: bool,
    chunks: list[tuple[int, int]],
    shape: tuple[int, int, int],
    window: int | None,
    softcap: float | None,
) -> None:
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefill, "can_use_flash_attention", lambda _: flash)
        patch.setattr(prefill, "can_use_efficient_attention", lambda _: efficient)
        step = random_step([3], chunks, shape, 3, torch.float32, window)
        attend_chunks(step, LayerAttention(0.3, window, softcap), prefill.unmasked)


class Operations(TorchDispatchMode):
    """Records the names of operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("chunks", [[(0, 5)], [(9, 4), (0, 3)]])
def test_no_mask_is_computed_and_no_number_read_from_the_device(
    monkeypatch: pytest.MonkeyPatch, chunks: list[tuple[int, int]]
) -> None:
    monkeypatch.setattr(prefill, "can_use_flash_attention", lambda _: True)
    monkeypatch.setattr(prefill, "scaled_dot_product_attention", lambda query, *_, **__: query)
    monkeypatch.setattr(prefill, "causal_lower_right", lambda *_: None)  # cannot be made in such a mode
    step = random_step([3], chunks, (6, 2, 16), 3, torch.float32)
    inputs = step.query_NHD, step.key_NGD, step.value_NGD, 0, step.batch, LayerAttention(0.3)
    out = step.query_NHD.clone()
    with Operations() as operations:
        prefill.unmasked(*inputs, out)
        prefill.together(*inputs, out, varlen_attn=lambda query, *_, **__: query)
    assert not operations.names & {"_local_scalar_dense", "nonzero", "equal", "ones", "tril", "masked_fill"}


@pytest.mark.parametrize(("flash", "efficient", "heads"), [(True, True, 2), (False, True, 6)])
def test_no_mask_is_made_and_only_flash_attention_shares_heads(
    monkeypatch: pytest.MonkeyPatch, flash: bool, efficient: bool, heads: int
) -> None:
    seen: list[tuple[object, int, bool]] = []

    def attention(
        query: Tensor, key: Tensor, value: Tensor, *, attn_mask: object, scale: float, enable_gqa: bool
    ) -> Tensor:
        seen.append((type(attn_mask), key.shape[1], enable_gqa))
        return query

    monkeypatch.setattr(prefill, "can_use_flash_attention", lambda _: flash)
    monkeypatch.setattr(prefill, "can_use_efficient_attention", lambda _: efficient)
    monkeypatch.setattr(prefill, "scaled_dot_product_attention", attention)
    step = random_step([], [(5, 3), (0, 4)], (6, 2, 16), 3, torch.float32)
    prefill.unmasked(
        step.query_NHD, step.key_NGD, step.value_NGD, 0, step.batch, LayerAttention(0.3), step.query_NHD.clone()
    )
    assert seen == [(CausalBias, heads, flash)] * 2


def _causal(query_THD: Tensor, key_LGD: Tensor, value_LGD: Tensor, scale: float) -> Tensor:
    """Causal attention in which the last row attends to the last key."""
    key_LHD, value_LHD = (
        tensor.double().repeat_interleave(query_THD.shape[1] // tensor.shape[1], 1) for tensor in (key_LGD, value_LGD)
    )
    scores_HTL = torch.einsum("thd,lhd->htl", query_THD.double(), key_LHD) * scale
    visible_TL = torch.ones(scores_HTL.shape[1:], dtype=torch.bool).tril(len(key_LGD) - len(query_THD))
    weights_HTL = scores_HTL.masked_fill(~visible_TL, -torch.inf).softmax(2)
    return torch.einsum("htl,lhd->thd", weights_HTL, value_LHD).to(query_THD.dtype)


def plain_varlen_attention(calls: list[dict[str, Any]]) -> Any:
    """torch's function for a CPU: the same parameters, with causal attention aligned to the last key."""
    varlen = pytest.importorskip("torch.nn.attention.varlen", reason="torch has no varlen_attn")
    signature = inspect.signature(varlen.varlen_attn)

    def attend(*args: Any, **options: Any) -> Tensor:
        given = signature.bind(*args, **options).arguments
        calls.append(given)
        query, key, value = given["query"], given["key"], given["value"]
        assert given["window_size"] == (-1, 0)
        assert given["enable_gqa"] == (query.shape[1] != key.shape[1])
        row_ends, key_ends = given["cu_seq_q"], given["cu_seq_k"]
        assert row_ends.dtype == key_ends.dtype == torch.int32
        assert (given["max_q"], given["max_k"]) == (int(row_ends.diff().max()), int(key_ends.diff().max()))
        out = torch.empty_like(query)
        for rows, seen in zip(pairwise(row_ends.tolist()), pairwise(key_ends.tolist()), strict=True):
            out[slice(*rows)] = _causal(query[slice(*rows)], key[slice(*seen)], value[slice(*seen)], given["scale"])
        return out

    return attend


@given(chunks=CHUNKS, shape=st.sampled_from(SHAPES), window=WINDOWS, softcap=st.sampled_from([None, None, 0.7]))
@settings(max_examples=30, deadline=None)
def test_chunks_together_equal_float64(
    chunks: list[tuple[int, int]], shape: tuple[int, int, int], window: int | None, softcap: float | None
) -> None:
    torch.manual_seed(0)
    calls: list[dict[str, Any]] = []
    step = random_step([3, 8], chunks, shape, 3, torch.float32, window)
    options = LayerAttention(0.3, window, softcap)
    attend_chunks(step, options, partial(prefill.together, varlen_attn=plain_varlen_attention(calls)))
    is_plain = softcap is None and (window is None or max(map(sum, chunks)) <= window)
    assert len(calls) == is_plain  # one call for all chunks


def test_without_chunks_nothing_is_called() -> None:
    step = random_step([3], [], (4, 4, 8), 3, torch.float32)
    attend_chunks(step, LayerAttention(0.3), partial(prefill.together, varlen_attn=plain_varlen_attention([])))
