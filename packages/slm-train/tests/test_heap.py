"""Training on a CPU keeps freed memory, and returns it at the end."""

from __future__ import annotations

import resource

import pytest
import torch

from slm_train.hardware.heap import _glibc, kept_heap

pytestmark = pytest.mark.skipif(_glibc() is None, reason="needs glibc")
_MEBIBYTE = 2**20


def page_faults(steps: int) -> int:
    """Return the page faults of ``steps`` that create and free the same tensors each."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        _ = [torch.ones(size * _MEBIBYTE, dtype=torch.uint8)[0] for size in (8, 40, 100, 8, 3, 40)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_pages_are_used_again_by_the_next_step_and_returned_at_the_end() -> None:
    usual = page_faults(5)
    with kept_heap(torch.device("cpu")):
        page_faults(10)
        assert page_faults(5) < usual / 10
    assert page_faults(5) > usual / 2


def test_nothing_is_kept_for_a_gpu() -> None:
    usual = page_faults(5)
    with kept_heap(torch.device("cuda")):
        page_faults(10)
        assert page_faults(5) > usual / 2
