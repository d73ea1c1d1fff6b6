"""The measurement of the fastest number of threads."""

from __future__ import annotations

import os

import pytest

from slm_train.hardware import thread_count
from slm_train.hardware.thread_count import fastest_threads


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The thread counts that are measured, on a machine where more threads are always faster."""
    counts: list[int] = []

    def throughput(threads: int, seconds: float) -> float:
        counts.append(threads)
        return float(threads)

    monkeypatch.setattr(thread_count, "_throughput", throughput)
    return counts


@pytest.mark.parametrize("has_affinity", [True, False])
def test_a_limit_bounds_the_threads_on_every_system(
    monkeypatch: pytest.MonkeyPatch, measured: list[int], has_affinity: bool
) -> None:
    if not has_affinity:  # macOS and Windows
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert fastest_threads(limit=3) == 3
    assert sorted(set(measured)) == [1, 2, 3]


def test_without_a_limit_the_cores_of_this_process_are_used(
    monkeypatch: pytest.MonkeyPatch, measured: list[int]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4, 5}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert fastest_threads() == 6
    assert sorted(set(measured)) == [1, 2, 4, 6]


def test_without_affinity_all_cores_are_used(monkeypatch: pytest.MonkeyPatch, measured: list[int]) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert fastest_threads() == 1
