"""Checks of paged attention on a GPU against dense attention in float64.

Triton decides on import whether it interprets kernels. To check them without a GPU, run this file as a program with
TRITON_INTERPRET=1.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_kv.attention import gpu
from slm_kv.attention.layer_attention import LayerAttention
from slm_kv.attention.reference import Attend
from slm_kv.attention.step_batch import StepBatch
from slm_kv.attention.trial import LayerKind, try_on_step
from slm_kv.pages.storage import LayerShape, PagedStorage
from slm_testing.kv.paged_steps import RandomStep, dense_attention, random_step

LENGTHS = (1, 40, 7, 16)
CHUNKS = ((0, 5), (9, 4))  # (past tokens, rows)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 3e-3}
# Query heads, heads of keys and values, and dimensions; page size; dtype.
CASES = [
    ((4, 4, 8), 16, torch.float32),
    ((6, 2, 16), 3, torch.float32),
    ((3, 1, 5), 1, torch.float32),
    ((8, 1, 256), 16, torch.float32),  # tiles shorter than a sequence
    ((6, 2, 16), 16, torch.bfloat16),
    ((3, 1, 5), 3, torch.bfloat16),
    ((4, 2, 20), 1, torch.float16),
]
# A window of a few tiles, of less than one, and of a single token; with sinks and a soft cap, also together.
OPTIONS = [
    LayerAttention(0.3),
    LayerAttention(0.3, window=1),
    LayerAttention(0.3, window=7),
    LayerAttention(0.3, window=20, softcap=0.7),
    LayerAttention(0.3, softcap=30.0, sinks=torch.linspace(-2, 3, 8)),
    LayerAttention(0.3, window=7, softcap=0.7, sinks=torch.linspace(3, -2, 8)),
]


def check_case(
    shape: tuple[int, int, int], page_size: int, dtype: torch.dtype, device: str, attend: Attend = gpu.attend
) -> None:
    """Assert that a mixed step has the attention that it should: without options, and with all of them."""
    torch.manual_seed(1)
    for options in OPTIONS if shape == CASES[1][0] and dtype is torch.float32 else (OPTIONS[0], OPTIONS[-1]):
        sinks = None if options.sinks is None else options.sinks[: shape[0]].to(device, dtype)
        step = random_step(LENGTHS, CHUNKS, shape, page_size, dtype, options.window, device)
        check_step(step, replace(options, sinks=sinks), attend)


def check_step(step: RandomStep, options: LayerAttention, attend: Attend = gpu.attend) -> torch.Tensor:
    """Assert that ``attend`` stores the step's keys and values and returns its attention, which is returned."""
    result = attend(step.query_NHD, step.key_NGD, step.value_NGD, 0, step.batch, options)
    storage, slots = step.batch.storage, step.batch.slots
    assert torch.equal(storage.keys[0].flatten(0, 1)[slots], step.key_NGD)
    assert torch.equal(storage.values[0].flatten(0, 1)[slots], step.value_NGD)
    assert result.dtype is storage.dtype
    difference = (result.cpu().double() - dense_attention(step, options)).abs().max()
    assert difference < TOLERANCE[storage.dtype], (difference, step.query_NHD.shape, storage.dtype, options)
    return result


def check_row_independence(step: RandomStep, options: LayerAttention, result: torch.Tensor) -> None:
    """Assert that each decode row alone, in a table of its own pages only, has bit for bit its part of ``result``."""
    batch = step.batch
    for row, length in enumerate(batch.decode_lengths.tolist()):
        only, pages = slice(row, row + 1), -(-length // batch.storage.page_size)
        alone = StepBatch(
            batch.storage, batch.slots[only], batch.decode_pages[only, :pages], batch.decode_lengths[only], ()
        )
        query, key, value = (tensor[only] for tensor in (step.query_NHD, step.key_NGD, step.value_NGD))
        assert torch.equal(gpu.attend(query, key, value, 0, alone, options), result[only])


@contextmanager
def small_parts() -> Iterator[None]:
    """Return a context in which sequences are divided into parts of 4 tokens, or of more if there were over 8 parts."""
    sizes = gpu.PART_TOKENS, gpu.MAX_PARTS
    gpu.PART_TOKENS, gpu.MAX_PARTS = 4, 8
    try:
        yield
    finally:
        gpu.PART_TOKENS, gpu.MAX_PARTS = sizes


@given(
    st.lists(st.integers(1, 70), min_size=1, max_size=3),
    st.sampled_from([None, 1, 4, 5, 30, 60]),
    st.booleans(),
    st.sampled_from([(2, 2, 8), (6, 2, 5)]),
    st.integers(0, 2**31),
)
@settings(max_examples=8, deadline=None, database=None)
def check_parts(
    lengths: list[int], window: int | None, has_options: bool, shape: tuple[int, int, int], seed: int
) -> None:
    """Assert that sequences in parts have the right attention, the same alone and together."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(seed)
    sinks = torch.linspace(-2, 3, shape[0], device=device)
    options = LayerAttention(0.3, window, 0.7, sinks) if has_options else LayerAttention(0.3, window)
    step = random_step(lengths, (), shape, 3, torch.float32, window, device)
    with small_parts():
        check_row_independence(step, options, check_step(step, options))


def check_not_finite(device: str) -> None:
    """Assert that large scores do not become NaN, and that a NaN is not lost, in one part and in several."""
    storage = PagedStorage([LayerShape(1, 4)], 4, 4, torch.float32, torch.device(device))
    query = torch.full((2, 1, 4), 100.0, device=device)
    key = torch.tensor([[[100.0] * 4], [[torch.nan] * 4]], device=device)
    pages, lengths = torch.tensor([[0, 2], [1, 3]], dtype=torch.int32), torch.tensor([6, 7], dtype=torch.int32)
    step = StepBatch(storage, torch.tensor([9, 14], device=device), pages.to(device), lengths.to(device), ())
    for is_split in (False, True):
        with small_parts() if is_split else nullcontext():
            out = gpu.attend(query, key, torch.ones(2, 1, 4, device=device), 0, step, LayerAttention(1.0))
        assert out[0].tolist() == [[1.0] * 4]
        assert out[1].isnan().all()


def check_trial(device: str) -> None:
    """Assert that the trial before an engine uses the kernels finds nothing wrong with them."""
    for kind in (LayerKind(4, LayerShape(2, 8), 0.3), LayerKind(2, LayerShape(2, 5), 0.3, 700, 5.0, has_sinks=True)):
        assert try_on_step(gpu.attend, torch.device(device), torch.float32, kind, 16) == ""


if __name__ == "__main__":
    torch.set_num_threads(1)  # a second thread mostly waits, and other tests run at the same time
    for case in CASES:
        check_case(*case, "cpu")
    check_parts()
    check_not_finite("cpu")
    check_trial("cpu")
