"""Settings of every test process."""

from __future__ import annotations

import gc

import pytest
import torch
from hypothesis import HealthCheck, settings

# A busy machine must not fail a test.
settings.register_profile("slm", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("slm")

gc.disable()  # while the tests and what they import are loaded, which leaves next to no garbage


def pytest_collection_finish() -> None:
    gc.enable()


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    """Compute on one thread: two test processes share two cores, and threads that wait for each other there spin.

    A server's ``--threads`` sets the number for the threads that it starts, not for that of the tests.
    """
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def _frozen_heap() -> None:
    """Exclude what is loaded by now from garbage collections, as a server does.

    A full collection takes a third of a second while it looks at all of torch and transformers. Each run of slm-train
    makes one, and so does closing vLLM. A server that stops undoes this until the next module begins.
    """
    gc.collect()
    gc.freeze()
