"""Settings of every test process."""

from __future__ import annotations

import gc

import pytest
from hypothesis import HealthCheck, settings

# A busy machine must not fail a test.
settings.register_profile("slm", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("slm")

gc.disable()  # while the tests and what they import are loaded, which leaves next to no garbage


def pytest_collection_finish() -> None:
    gc.enable()


@pytest.fixture(autouse=True, scope="module")
def _frozen_heap(request: pytest.FixtureRequest) -> None:
    """Exclude what is loaded by now from garbage collections, as a server does.

    A full collection takes a third of a second while it looks at all of torch and transformers, and each run of
    slm-train makes one. Servers do this themselves, and undo it when they stop.
    """
    if "slm-serve" not in request.path.parts:
        gc.collect()
        gc.freeze()
