"""Paged attention on a GPU against float64: in Triton's interpreter, and on a GPU if one is available."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from slm_kv.attention.layer_attention import LayerAttention
from slm_kv.attention.reference import Attend
from slm_testing.kv.paged_steps import RandomStep, random_step

pytest.importorskip("triton", reason="triton is not installed")
from torch.nn.attention import SDPBackend, sdpa_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime.jit import create_function_from_signature

from slm_kv.attention import gpu, gpu_kernels
from slm_kv.attention.backends import try_attention
from slm_testing.kv.gpu_attention import (
    CASES,
    CHUNKS,
    LENGTHS,
    check_case,
    check_not_finite,
    check_parts,
    check_row_independence,
    check_step,
    check_trial,
)

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
needs_flash = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.version.hip is not None or torch.cuda.get_device_capability() < (8, 0),
    reason="needs an NVIDIA GPU with flash attention",
)


def attend(step: RandomStep, options: LayerAttention) -> Tensor:
    return gpu.attend(step.query_NHD, step.key_NGD, step.value_NGD, 0, step.batch, options)


def test_the_interpreted_kernels_equal_float64() -> None:
    command = [sys.executable, "-m", "slm_testing.kv.gpu_attention"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    completed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr


@pytest.mark.parametrize(
    ("tokens", "window", "parts"),
    [
        (1, gpu.UNLIMITED, 1),
        (512, gpu.UNLIMITED, 1),
        (513, gpu.UNLIMITED, 2),
        (64 * 512, gpu.UNLIMITED, 64),
        (10**6, gpu.UNLIMITED, 64),
        (10**6, 1024, 2),
    ],
)
def test_the_number_of_parts_grows_with_the_table_up_to_the_window_and_a_limit(
    tokens: int, window: int, parts: int
) -> None:
    assert gpu.max_parts(tokens, window) == parts


def specialization(offset: int, rows: int) -> object:
    """What Triton compiles ``decode_kernel`` for, with tables that start at ``offset`` of a tensor."""
    kernel = gpu_kernels.decode_kernel
    bind = create_function_from_signature(kernel.signature, kernel.params, make_backend(GPUTarget("cuda", 80, 32)))
    query, staged = torch.zeros(6, rows, 16).transpose(0, 1), torch.zeros(16, dtype=torch.int32)
    pointers = [query, query, query, query, query, query, query, staged[offset:], staged[offset + 3 :], query]
    sizes = {"GROUP_SIZE": 3, "DIM": 16, "PAGE_SIZE": 16, "PART_TOKENS": 512, "Q": 4, "C": 16, "L": 32, "M": 64}
    flags = {"HAS_SOFTCAP": False, "HAS_SINKS": False}
    return bind(*pointers, 0.3, 0.0, gpu.UNLIMITED, *query.stride(), offset + 1, 32, **sizes, **flags)[1]


def test_rows_and_pages_of_a_step_do_not_recompile_the_kernel() -> None:
    assert specialization(0, 1) == specialization(1, 2) == specialization(4, 3) == specialization(15, 16)


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("attend_step", [pytest.param(attend, id=name) for name, attend in gpu.VARIANTS.items()][1:])
@pytest.mark.parametrize(("shape", "page_size", "dtype"), CASES)
def test_on_a_gpu_attention_equals_float64(
    shape: tuple[int, int, int], page_size: int, dtype: torch.dtype, attend_step: Attend
) -> None:
    check_case(shape, page_size, dtype, "cuda", attend_step)


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [32, 64, 80, 96, 128, 256])
def test_on_a_gpu_decode_rows_of_all_head_sizes_equal_float64(dim: int, dtype: torch.dtype) -> None:
    torch.manual_seed(dim)
    for group_size in (1, 2, 3, 4, 7, 8):
        sinks = torch.linspace(-2, 3, 2 * group_size, device="cuda", dtype=dtype)
        options = LayerAttention(dim**-0.5, softcap=30.0, sinks=sinks)
        step = random_step((1, 16, 700), (), (2 * group_size, 2, dim), 16, dtype, None, "cuda")
        check_row_independence(step, options, check_step(step, options))


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, 4096])
def test_on_a_gpu_long_contexts_equal_float64(window: int | None) -> None:
    torch.manual_seed(0)
    options = LayerAttention(0.125, window)
    step = random_step((1, 511, 512, 513, 5000, 40_000), (), (6, 2, 64), 16, torch.float32, window, "cuda")
    check_row_independence(step, options, check_step(step, options))


@needs_gpu
@pytest.mark.gpu
def test_on_a_gpu_parts_overflow_nan_and_the_trial_are_as_in_the_interpreter() -> None:
    check_parts()
    check_not_finite("cuda")
    check_trial("cuda")


@needs_flash
@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(4, 4, 64), (6, 2, 64), (8, 2, 128)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_on_a_gpu_prompts_are_computed_by_flash_attention(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    together = next(iter(gpu.VARIANTS.items()))
    assert try_attention(torch.device("cuda"), dtype).name == together[0]
    step = random_step(LENGTHS, CHUNKS, shape, 16, dtype, None, "cuda")
    check_step(step, LayerAttention(0.3), together[1])
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # another kernel is an error
        check_step(step, LayerAttention(0.3))


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(4, 4, 64), (6, 2, 64)])
def test_on_a_gpu_prompts_in_float32_are_computed_by_the_memory_efficient_kernel(shape: tuple[int, int, int]) -> None:
    step = random_step((), CHUNKS, shape, 16, torch.float32, None, "cuda")
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
        check_step(step, LayerAttention(0.3))


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_on_a_gpu_attention_never_synchronises_with_the_host(dtype: torch.dtype) -> None:
    selected, options = try_attention(torch.device("cuda"), dtype), LayerAttention(0.3)
    steps = [random_step((1, 40, 700), CHUNKS, (6, 2, 64), 16, dtype, None, "cuda") for _ in range(2)]
    for step, mode in zip(steps, ("default", "error"), strict=True):  # compiled in the first
        torch.cuda.set_sync_debug_mode(mode)
        try:
            selected.attend(step.query_NHD, step.key_NGD, step.value_NGD, 0, step.batch, options)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@needs_gpu
@pytest.mark.gpu
def test_on_a_gpu_a_graph_of_decode_rows_follows_lengths_that_change() -> None:
    step, options = random_step((600, 700), (), (6, 2, 64), 16, torch.float32, None, "cuda"), LayerAttention(0.3)
    attend(step, options)  # compiled
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = attend(step, options)
    for lengths in ((600, 700), (3, 513), (600, 1)):
        step.batch.decode_lengths.copy_(torch.tensor(lengths))
        graph.replay()
        assert torch.equal(captured, attend(step, options))


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "neox"])
def test_on_a_gpu_the_engine_generates_the_tokens_of_generate(name: str) -> None:
    from slm_kv import Engine
    from slm_testing.kv.tiny_models import greedy_params, greedy_tokens, make_model, random_prompts

    model, prompts = make_model(name), random_prompts(6)
    expected = [greedy_tokens(model, prompt, 16) for prompt in prompts]
    with Engine(model.cuda(), page_size=3, max_pages=60, max_sequences=4, max_step_tokens=7) as engine:
        assert "attention: Triton kernels" in engine.summary
        assert [handle.token_ids for handle in engine.generate(prompts, greedy_params(16))] == expected
