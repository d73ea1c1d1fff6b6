"""Settings of every test process."""

from __future__ import annotations

import gc

import pytest


@pytest.fixture(autouse=True, scope="module")
def _frozen_heap() -> None:
    """Exclude what is loaded by now from garbage collection, as a server does.

    A full collection takes a third of a second while it looks at all of torch and transformers, and each run of
    slm-train makes one.
    """
    gc.collect()
    gc.freeze()
