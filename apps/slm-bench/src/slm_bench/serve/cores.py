"""Which core the servers run on, and which the load generator beside them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Cores(NamedTuple):
    """None where there is only one core, or the system cannot bind."""

    server: int | None
    client: int | None


def two_cores() -> Cores:
    """The first two of those that this process may use."""
    if not hasattr(os, "sched_getaffinity"):
        return Cores(None, None)
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(allowed[0], allowed[1]) if len(allowed) > 1 else Cores(None, None)


@contextmanager
def bound(core: int | None) -> Iterator[None]:
    """This thread, and whatever it starts, on ``core`` alone; None changes nothing."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
