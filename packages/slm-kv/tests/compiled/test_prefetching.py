"""Prefetching compiles to the CPU's instruction and never faults."""

import re

import numpy as np
import pytest

numba = pytest.importorskip("numba", reason="numba is not installed")
prefetching = pytest.importorskip("slm_kv.compiled.prefetching", reason="numba is not installed")
prefetch, prefetch_run = prefetching.prefetch, prefetching.prefetch_run


@numba.njit
def doubled(numbers, far):
    """Double each number, while prefetching memory ``far`` away."""
    out = np.empty_like(numbers)
    for i in range(len(numbers)):
        prefetch_run(numbers, i + far, 64)
        out[i] = 2 * numbers[i]
    return out


@pytest.mark.parametrize("far", [0, 512, 1 << 40, -(1 << 40)])
def test_an_index_outside_of_the_array_is_harmless(far: int) -> None:
    numbers = np.arange(100, dtype=np.float32)
    assert np.array_equal(doubled(numbers, far), 2 * numbers)


def test_it_compiles_to_the_instruction() -> None:
    """LLVM would compile an intrinsic of another name to a call of a missing function, or to nothing."""
    doubled(np.zeros(1, np.float32), 0)
    (code,) = doubled.inspect_asm().values()
    assert re.search(r"\b(prefetch\w*|prfm|dcbt)\b", code)


def test_only_a_contiguous_1d_array_is_accepted() -> None:
    @numba.njit
    def prefetch_first(numbers):
        prefetch(numbers, 0)

    prefetch_first(np.zeros(4))
    for other in (np.zeros((2, 2)), np.zeros(8)[::2]):
        with pytest.raises(numba.TypingError):
            prefetch_first(other)
