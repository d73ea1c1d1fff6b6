"""Settings of every test process."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# A busy machine must not fail a test.
settings.register_profile("slm", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("slm")

gc.disable()  # while the tests and what they import are loaded, which leaves next to no garbage


def pytest_configure() -> None:
    if hasattr(os, "fork"):
        from slm_testing.forked import share_server

        share_server()  # all test processes fork commands from one server


def pytest_collection_finish() -> None:
    gc.enable()


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    """Compute on one thread: two test processes share two cores, and threads that wait for each other there spin.

    A server's ``--threads`` sets the number for the threads that it starts, not for that of the tests.
    """
    import torch  # here, because the process that only distributes the tests does not need it

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Skip fsync: a busy disk takes 20 ms for each of thousands, and no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        yield


@pytest.fixture(autouse=True, scope="module")
def _frozen_heap() -> None:
    """Exclude what is loaded by now from garbage collections, as a server does.

    A full collection takes a third of a second while it looks at all of torch and transformers. Each run of slm-train
    makes one, and so does closing vLLM.
    """
    gc.collect()
    gc.freeze()
