"""The Triton kernels, compiled ahead of time as they are launched: registers and shared memory, without a GPU."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="triton is not installed")
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from slm_kv.attention import gpu
from slm_kv.attention.gpu_kernels import decode_kernel, reduce_kernel

# Bytes of shared memory that a block may use.
SHARED_MEMORY = {"75": 64, "80": 163, "89": 99, "90": 227, "100": 227, "gfx942": 64}
HEAD_SIZES, GROUP_SIZES = (32, 64, 80, 96, 128, 256), (1, 2, 3, 4, 7, 8)
DTYPES = ("bf16", "fp32", "fp16")
POINTERS = {"tables": "*i32", "lengths": "*i32", "partial_acc": "*fp32", "partial_max": "*fp32", "partial_sum": "*fp32"}


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel needs: registers of a thread, and bytes of a thread's stack and a block's memory."""

    registers: int
    stack: int  # spilled registers
    shared: int


def compile_kernel(kernel: JITFunction[Any], architecture: str, dtype: str, constants: dict[str, Any]) -> Resources:
    """Compile as for a launch: with aligned tensors of ``dtype`` whose dimensions are contiguous."""
    is_amd = architecture.startswith("gfx")
    target = GPUTarget("hip", architecture, 64) if is_amd else GPUTarget("cuda", int(architecture), 32)
    data = dict.fromkeys(("query", "keys", "values", "out", "sinks"), f"*{dtype}")
    types = data | POINTERS | {"scale": "fp32", "softcap": "fp32"}
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    aligned = [*data, "partial_acc", "partial_max", "partial_sum"] + ["token_stride"] * (constants["DIM"] % 16 == 0)
    source = ASTSource(
        kernel,
        signature,
        {(names.index(name),): value for name, value in constants.items()},
        {(names.index(name),): [["tt.divisibility", 16]] for name in aligned if name in names},
    )
    compiled = triton.compile(source, target=target, options={} if is_amd else gpu.LAUNCH_OPTIONS)
    registers, stack = _amd_resources(compiled.asm["amdgcn"]) if is_amd else _cuda_resources(compiled.asm["cubin"])
    return Resources(registers, stack, compiled.metadata.shared)


def _cuda_resources(cubin: bytes) -> tuple[int, int]:
    path = Path(triton.knobs.cache.dir, "kernel.cubin")
    path.write_bytes(cubin)
    command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(path)]
    usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack, local = (int(re.findall(rf"{name}:(\d+)", usage)[0]) for name in ("REG", "STACK", "LOCAL"))
    return registers, stack + local


def _amd_resources(assembly: str) -> tuple[int, int]:
    """Scalar registers are spilled to lanes of vector registers, not to memory."""
    names = ("vgpr_count", "vgpr_spill_count", "private_segment_fixed_size")
    registers, spilled, private = (int(re.findall(rf"\.{name}:\s+(\d+)", assembly)[0]) for name in names)
    return registers, 4 * spilled + private


def decode_resources(
    architecture: str, dim: int, group_size: int, dtype: str, page_size: int, has_options: bool
) -> Resources:
    queries, dims, tokens = gpu.tile_sizes(group_size, dim, architecture.startswith("gfx"))
    constants = {"GROUP_SIZE": group_size, "DIM": dim, "PAGE_SIZE": page_size, "dim_stride": 1}
    constants |= {"HAS_SOFTCAP": has_options, "HAS_SINKS": has_options, "PART_TOKENS": gpu.PART_TOKENS}
    constants |= {"Q": queries, "C": dims, "L": tokens, "M": gpu.MAX_PARTS}
    return compile_kernel(decode_kernel, architecture, dtype, constants)


def reduce_resources(architecture: str, dim: int, dtype: str) -> Resources:
    constants = {"DIM": dim, "PART_TOKENS": gpu.PART_TOKENS, "C": triton.next_power_of_2(dim), "M": gpu.MAX_PARTS}
    return compile_kernel(reduce_kernel, architecture, dtype, constants | {"TILE": gpu.REDUCED_PARTS})


def check(architecture: str, resources: Resources, *configuration: object) -> None:
    assert resources.stack == 0, (architecture, *configuration, resources)
    assert resources.shared <= SHARED_MEMORY[architecture] * 1024, (architecture, *configuration, resources)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    if any(name not in triton.backends.backends for name in ("nvidia", "amd")):
        pytest.skip("this triton cannot compile for all GPUs")


@pytest.mark.parametrize(
    "configuration",
    [("80", 64, 3, "bf16", 16, False), ("90", 20, 1, "fp16", 3, True), ("gfx942", 32, 1, "fp32", 16, True)],
)
def test_the_decode_kernel_compiles_without_spilling_registers(configuration: tuple[Any, ...]) -> None:
    check(configuration[0], decode_resources(*configuration))


def test_the_reducing_kernel_compiles_without_spilling_registers() -> None:
    check("75", reduce_resources("75", 256, "fp32"))


def configurations(architecture: str) -> Iterator[tuple[int, int, str, int, bool]]:
    """All head and group sizes, each with one dtype and page size, and with options or without.

    With which one differs from architecture to architecture. 75 (T4) has no bfloat16.
    """
    start = list(SHARED_MEMORY).index(architecture)
    for row, dim in enumerate(HEAD_SIZES):
        for column, group_size in enumerate(GROUP_SIZES):
            index = start + row + column
            dtype = "fp16" if architecture == "75" and index % 3 == 0 else DTYPES[index % 3]
            yield dim, group_size, dtype, (16, 32, 64)[(index + row) % 3], (index + row) % 2 == 0


@pytest.mark.slow
@pytest.mark.parametrize("architecture", SHARED_MEMORY)
def test_no_kernel_spills_registers_on_any_gpu(architecture: str) -> None:
    for configuration in configurations(architecture):
        check(architecture, decode_resources(architecture, *configuration), *configuration)
    for dim, dtype in zip(HEAD_SIZES, cycle(DTYPES[1:]), strict=False):
        check(architecture, reduce_resources(architecture, dim, dtype), dim, dtype)
