"""CPU cores: one for the server under test, another for the load generator."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Cores(NamedTuple):
    """The cores of the server under test and of the load generator; None if there are no two, or none can be bound."""

    server: int | None
    client: int | None


def two_cores() -> Cores:
    """Return the first two cores that this process may use."""
    if not hasattr(os, "sched_getaffinity"):  # macOS and Windows
        return Cores(None, None)
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(allowed[0], allowed[1]) if len(allowed) > 1 else Cores(None, None)


@contextmanager
def bound(core: int | None) -> Iterator[None]:
    """Within the block, bind this thread and the processes that it starts to ``core``; None changes nothing."""
    if core is None:
        yield
        return
    previous = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, previous)
