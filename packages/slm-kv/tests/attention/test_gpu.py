"""Paged attention on a GPU against the reference: in Triton's interpreter, and on a GPU if one is available.

Triton decides on import whether it interprets, so a separate process does so: it runs this file as its program.
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from slm_kv.attention import reference
from slm_kv.attention.layer_attention import LayerAttention
from slm_kv.attention.step_batch import Chunk, StepBatch
from slm_kv.pages.storage import LayerShape, PagedStorage
from slm_testing.kv.paged_steps import dense_attention, random_step

pytest.importorskip("triton", reason="triton is not installed")
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from slm_kv.attention import gpu

LENGTHS = (1, 40, 7, 16)
CHUNKS = ((0, 5), (9, 4))  # (past tokens, rows)
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 3e-2, torch.float16: 3e-3}
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
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def batch(groups: int, dim: int, page_size: int, dtype: torch.dtype, device: torch.device) -> StepBatch:
    """A step of decode rows and chunks over scattered pages of random but fixed contents."""
    spans = [*LENGTHS, *(past + rows for past, rows in CHUNKS)]
    counts = [-(-span // page_size) for span in spans]
    generator = torch.Generator().manual_seed(0)
    pages = torch.randperm(sum(counts) + 2, generator=generator)[: sum(counts)].split(counts)
    storage = PagedStorage([LayerShape(groups, dim)], sum(counts) + 2, page_size, dtype, device)
    for tensor in storage.keys + storage.values:
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    token_ranges = [range(length - 1, length) for length in LENGTHS] + [
        range(past, past + rows) for past, rows in CHUNKS
    ]
    slots = [
        int(own_pages[token // page_size]) * page_size + token % page_size
        for own_pages, span in zip(pages, token_ranges, strict=True)
        for token in span
    ]
    table = torch.nn.utils.rnn.pad_sequence(list(pages[: len(LENGTHS)]), batch_first=True).int()
    chunks, first = [], len(LENGTHS)
    for own_pages, (past, rows) in zip(pages[len(LENGTHS) :], CHUNKS, strict=True):
        chunks.append(Chunk(first, first + rows, past, own_pages.numpy(), own_pages.to(device)))
        first += rows
    lengths = torch.tensor(LENGTHS, dtype=torch.int32, device=device)
    return StepBatch(storage, torch.tensor(slots, device=device), table.to(device), lengths, tuple(chunks))


def compare(shape: tuple[int, int, int], page_size: int, dtype: torch.dtype, device: torch.device) -> None:
    """Assert that both compute the same attention for a mixed step: without options, and with all of them."""
    for options in OPTIONS if shape == CASES[1][0] and dtype is torch.float32 else (OPTIONS[0], OPTIONS[-1]):
        sinks = None if options.sinks is None else options.sinks[: shape[0]].to(device, dtype)
        compare_options(shape, page_size, dtype, device, replace(options, sinks=sinks))


def compare_options(
    shape: tuple[int, int, int], page_size: int, dtype: torch.dtype, device: torch.device, options: LayerAttention
) -> None:
    """Assert that both compute the same attention for a mixed step."""
    heads, groups, dim = shape
    torch.manual_seed(1)
    rows = len(LENGTHS) + sum(count for _, count in CHUNKS)
    query, key, value = (  # not contiguous, as in a model
        torch.randn(count, rows, dim).to(device, dtype).transpose(0, 1) for count in (heads, groups, groups)
    )
    ours, plain = (batch(groups, dim, page_size, dtype, device) for _ in range(2))
    result = gpu.attend(query, key, value, 0, ours, options)
    expected = reference.attend(query, key, value, 0, plain, options)
    assert torch.equal(ours.storage.keys[0], plain.storage.keys[0])
    assert torch.equal(ours.storage.values[0], plain.storage.values[0])
    assert result.dtype is dtype
    assert torch.allclose(result.float(), expected.float(), atol=TOLERANCE[dtype], rtol=1e-2), (
        shape,
        page_size,
        dtype,
        options,
    )


def check_not_finite(device: torch.device) -> None:
    """Assert that large scores do not become NaN, and that a NaN is not lost."""
    storage = PagedStorage([LayerShape(1, 4)], 2, 4, torch.float32, device)
    query = torch.full((2, 1, 4), 100.0, device=device)
    key = torch.tensor([[[100.0] * 4], [[torch.nan] * 4]], device=device)
    pages, lengths = torch.tensor([[0], [1]], dtype=torch.int32), torch.tensor([2, 3], dtype=torch.int32)
    step = StepBatch(storage, torch.tensor([1, 6], device=device), pages.to(device), lengths.to(device), ())
    out = gpu.attend(query, key, torch.ones(2, 1, 4, device=device), 0, step, LayerAttention(1.0))
    assert out[0].tolist() == [[1.0] * 4]
    assert out[1].isnan().all()


def check_unread(device: torch.device) -> None:
    """Assert that nothing before the window is read, and that both equal dense attention."""
    torch.manual_seed(3)
    for window in (1, 7, 20):
        step = random_step(LENGTHS, CHUNKS, (6, 2, 16), 3, torch.float32, window, device.type)
        options = LayerAttention(0.3, window)
        result = gpu.attend(step.query_NHD, step.key_NGD, step.value_NGD, 0, step.batch, options)
        assert torch.allclose(result.cpu().double(), dense_attention(step, options), atol=4e-6)


def check_row_independence(device: torch.device) -> None:
    """Assert that a row alone gives bit for bit the same result as among others."""
    torch.manual_seed(2)
    query, key, value = torch.randn(4, 6, 16), torch.randn(4, 2, 16), torch.randn(4, 2, 16)
    full = batch(2, 16, 3, torch.float32, device)
    rows = [tensor.to(device) for tensor in (query, key, value)]
    step = StepBatch(full.storage, full.slots[:4], full.decode_pages, full.decode_lengths, ())
    together = gpu.attend(*rows, 0, step, LayerAttention(0.3))
    for row in range(4):
        only = slice(row, row + 1)
        alone = StepBatch(full.storage, full.slots[only], full.decode_pages[only], full.decode_lengths[only], ())
        assert torch.equal(
            gpu.attend(*(tensor[only] for tensor in rows), 0, alone, LayerAttention(0.3)), together[only]
        )


def test_the_interpreted_kernel_equals_the_reference() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    completed = subprocess.run(
        [sys.executable, Path(__file__)], env=environment, capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stderr


@pytest.mark.parametrize("has_options", [False, True])
def test_the_kernel_compiles_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_options: bool) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = gpu.decode_kernel
    constants = {"GROUP_SIZE": 3, "DIM": 20, "PAGE_SIZE": 3, "Q": 4, "C": 32, "L": 32}
    constants |= {"HAS_SOFTCAP": has_options, "HAS_SINKS": has_options}
    types = dict.fromkeys(("query", "keys", "values", "out", "sinks"), "*bf16") | {
        "tables": "*i32",
        "lengths": "*i32",
        "scale": "fp32",
        "softcap": "fp32",
    }
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in kernel.arg_names}
    compiled = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 80, 32))
    assert "cubin" in compiled.asm


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize(("shape", "page_size", "dtype"), CASES)
def test_on_a_gpu_the_kernel_equals_the_reference(
    shape: tuple[int, int, int], page_size: int, dtype: torch.dtype
) -> None:
    compare(shape, page_size, dtype, torch.device("cuda"))


@needs_gpu
@pytest.mark.gpu
def test_on_a_gpu_overflow_nan_and_other_rows_are_handled() -> None:
    check_not_finite(torch.device("cuda"))
    check_unread(torch.device("cuda"))
    check_row_independence(torch.device("cuda"))


@needs_gpu
@pytest.mark.gpu
def test_on_a_gpu_decode_rows_never_synchronise_with_the_host() -> None:
    full = batch(2, 16, 3, torch.float32, torch.device("cuda"))
    step = StepBatch(full.storage, full.slots[:4], full.decode_pages, full.decode_lengths, ())
    query, key, value = (torch.randn(4, heads, 16, device="cuda") for heads in (6, 2, 2))
    gpu.attend(query, key, value, 0, step, LayerAttention(0.3))  # compiled
    torch.cuda.set_sync_debug_mode("error")
    try:
        gpu.attend(query, key, value, 0, step, LayerAttention(0.3))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "neox"])
def test_on_a_gpu_the_engine_generates_the_tokens_of_generate(name: str) -> None:
    from slm_kv import Engine
    from slm_testing.kv.tiny_models import (  # not at the top: the interpreting process needs no transformers
        greedy_params,
        greedy_tokens,
        make_model,
        random_prompts,
    )

    model, prompts = make_model(name), random_prompts(6)
    expected = [greedy_tokens(model, prompt, 16) for prompt in prompts]
    with Engine(model.cuda(), page_size=3, max_pages=60, max_sequences=4, max_step_tokens=7) as engine:
        assert engine._runner._attend is gpu.attend
        assert [handle.token_ids for handle in engine.generate(prompts, greedy_params(16))] == expected


if __name__ == "__main__":
    torch.set_num_threads(1)  # a second thread mostly waits, and other tests run at the same time
    cpu = torch.device("cpu")
    for case in CASES:
        compare(*case, cpu)
    check_not_finite(cpu)
    check_unread(cpu)
    check_row_independence(cpu)
