"""Compiled paged attention on a CPU against the reference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_kv.attention import cpu, reference
from slm_kv.attention.layer_attention import LayerAttention
from slm_kv.attention.step_batch import Chunk, StepBatch
from slm_kv.pages.storage import LayerShape, PagedStorage


@given(
    st.lists(st.integers(1, 40), min_size=0, max_size=4),
    st.lists(st.tuples(st.integers(0, 20), st.integers(2, 12)), max_size=2),
    st.sampled_from([(4, 4, 8), (6, 2, 16), (3, 1, 5), (4, 2, 64)]),
    st.sampled_from([1, 3, 16]),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_compiled_attention_equals_the_reference(
    lengths: list[int],
    chunks: list[tuple[int, int]],
    shape: tuple[int, int, int],
    page_size: int,
    dtype: torch.dtype,
    seed: int,
) -> None:
    if not lengths and not chunks:
        return
    heads, groups, dim = shape
    torch.manual_seed(seed)
    spans = [*lengths, *(past + rows for past, rows in chunks)]
    counts = [-(-span // page_size) for span in spans]
    order = torch.randperm(sum(counts) + 2)[: sum(counts)].split(counts)

    def batch() -> StepBatch:
        storage = PagedStorage([LayerShape(groups, dim)], sum(counts) + 2, page_size, dtype, torch.device("cpu"))
        generator = torch.Generator().manual_seed(seed)
        for tensor in storage.keys + storage.values:
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        tokens = [[length - 1] for length in lengths] + [list(range(past, past + rows)) for past, rows in chunks]
        slots = [
            int(pages[token // page_size]) * page_size + token % page_size
            for pages, row in zip(order, tokens, strict=True)
            for token in row
        ]
        table = torch.zeros(len(lengths), max(counts), dtype=torch.int32)
        for row, pages in enumerate(order[: len(lengths)]):
            table[row, : len(pages)] = pages
        first, step_chunks = len(lengths), []
        for pages, (past, rows) in zip(order[len(lengths) :], chunks, strict=True):
            step_chunks.append(Chunk(first, first + rows, past, pages.numpy(), pages))
            first += rows
        return StepBatch(
            storage, torch.tensor(slots), table, torch.tensor(lengths, dtype=torch.int32), tuple(step_chunks)
        )

    rows = len(lengths) + sum(count for _, count in chunks)
    query = torch.randn(heads, rows, dim).to(dtype).transpose(0, 1)  # not contiguous, as in a model
    key, value = (torch.randn(groups, rows, dim).to(dtype).transpose(0, 1) for _ in range(2))
    ours, plain = batch(), batch()
    result = cpu.attend(query, key, value, 0, ours, LayerAttention(0.3))
    expected = reference.attend(query, key, value, 0, plain, LayerAttention(0.3))
    assert torch.equal(ours.storage.keys[0], plain.storage.keys[0])
    assert torch.equal(ours.storage.values[0], plain.storage.values[0])
    assert result.dtype is dtype
    assert torch.allclose(result.float(), expected.float(), atol=2e-6 if dtype is torch.float32 else 3e-2, rtol=1e-2)


def test_a_row_does_not_depend_on_the_other_rows() -> None:
    torch.manual_seed(0)
    storage = PagedStorage([LayerShape(2, 8)], 8, 4, torch.float32, torch.device("cpu"))
    for tensor in storage.keys + storage.values:
        tensor.normal_()
    pages, lengths = torch.tensor([[0, 1], [2, 3]], dtype=torch.int32), torch.tensor([7, 8], dtype=torch.int32)
    query, key, value = torch.randn(2, 4, 8), torch.randn(2, 2, 8), torch.randn(2, 2, 8)
    slots = torch.tensor([6, 15])
    both = cpu.attend(query, key, value, 0, StepBatch(storage, slots, pages, lengths, ()), LayerAttention(0.5))
    for row in range(2):
        only = slice(row, row + 1)
        alone = StepBatch(storage, slots[only], pages[only], lengths[only], ())
        assert torch.equal(cpu.attend(query[only], key[only], value[only], 0, alone, LayerAttention(0.5)), both[only])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_scores_do_not_overflow_and_nan_is_kept(dtype: torch.dtype) -> None:
    storage = PagedStorage([LayerShape(1, 4)], 2, 4, dtype, torch.device("cpu"))
    query, value = torch.full((2, 1, 4), 100.0, dtype=dtype), torch.tensor([[[1.0] * 4], [[3.0] * 4]], dtype=dtype)
    key = torch.tensor([[[100.0] * 4], [[torch.nan] * 4]], dtype=dtype)
    pages, lengths = torch.tensor([[0], [1]], dtype=torch.int32), torch.tensor([1, 1], dtype=torch.int32)
    out = cpu.attend(
        query, key, value, 0, StepBatch(storage, torch.tensor([0, 4]), pages, lengths, ()), LayerAttention(1.0)
    )
    assert out[0].tolist() == [[1.0] * 4]
    assert out[1].isnan().all()
