"""Prefetching compiles to the instruction, and reads nothing."""

import re

import numpy as np
import pytest

numba = pytest.importorskip("numba", reason="numba is not installed")
prefetching = pytest.importorskip("slm_kv.compiled.prefetching", reason="numba is not installed")
prefetch, prefetch_run = prefetching.prefetch, prefetching.prefetch_run


@numba.njit
def doubled(numbers, far):
    """Each number twice, while memory far away is asked for."""
    out = np.empty_like(numbers)
    for i in range(len(numbers)):
        prefetch_run(numbers, i + far, 64)
        out[i] = 2 * numbers[i]
    return out


@pytest.mark.parametrize("far", [0, 512, 1 << 40, -(1 << 40)])
def test_an_index_outside_does_no_harm(far: int) -> None:
    numbers = np.arange(100, dtype=np.float32)
    assert np.array_equal(doubled(numbers, far), 2 * numbers)


def test_it_is_the_instruction() -> None:
    """A name that LLVM does not know as its own would be a function that is not there, or nothing at all."""
    doubled(np.zeros(1, np.float32), 0)
    (code,) = doubled.inspect_asm().values()
    assert re.search(r"\b(prefetch\w*|prfm|dcbt)\b", code)


def test_only_an_array_in_one_piece_is_taken() -> None:
    @numba.njit
    def of(numbers):
        prefetch(numbers, 0)

    of(np.zeros(4))
    for other in (np.zeros((2, 2)), np.zeros(8)[::2]):
        with pytest.raises(numba.TypingError):
            of(other)
