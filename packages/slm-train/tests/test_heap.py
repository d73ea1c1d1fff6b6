"""Training on a CPU keeps freed memory, and returns it at the end."""

from __future__ import annotations

import resource

import psutil
import pytest
import torch

import slm_train.hardware.heap as heap

_MEBIBYTE = 2**20
_SIZES = (8, 40, 100, 8, 3, 40)  # of the tensors of a step, in MiB


def page_faults(steps: int) -> int:
    """Return the page faults of ``steps`` that create and free the same tensors each."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        _ = [torch.ones(size * _MEBIBYTE, dtype=torch.uint8)[0] for size in _SIZES]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(heap._glibc() is None, reason="needs glibc")
def test_pages_are_used_again_by_the_next_step_and_returned_at_the_end() -> None:
    pages = 5 * sum(_SIZES) * _MEBIBYTE // resource.getpagesize()
    with heap.kept_heap(torch.device("cpu")):
        page_faults(10)
        assert page_faults(5) < pages / 20
        kept = psutil.Process().memory_info().rss
    assert psutil.Process().memory_info().rss < kept - 100 * _MEBIBYTE


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_options_are_set_on_a_cpu_only_and_reset_also_after_an_error(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    thresholds: list[tuple[int, int]] = []
    monkeypatch.setattr(heap, "_set_thresholds", lambda _, *values: thresholds.append(values))
    with pytest.raises(KeyError), heap.kept_heap(torch.device(device)):
        raise KeyError
    is_set = device == "cpu" and heap._glibc() is not None
    assert thresholds == ([(2**31 - 1, 2**31 - 1), (64 * _MEBIBYTE, 32 * _MEBIBYTE)] if is_set else [])
