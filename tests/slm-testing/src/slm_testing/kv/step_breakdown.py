"""The parts of an engine's step: forward pass, sampling, and everything else on the host."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from slm_kv import Engine


@dataclass
class Breakdown:
    """Seconds of the parts of all steps."""

    forward: float = 0.0
    sampling: float = 0.0


@contextmanager
def timed_parts(engine: Engine) -> Iterator[Breakdown]:
    """Time the parts of ``engine``'s steps; the device is waited for after each, so the whole step is slower."""
    parts = Breakdown()
    owner: Any = engine
    runner = owner._runner
    run, start = runner.run, owner._results  # which returns a function that waits
    timed = partial(_timed, engine.device, parts)

    def timed_start(*inputs: Any) -> Any:
        results = timed("sampling", lambda: start(*inputs))
        return lambda: timed("sampling", results)

    runner.run = lambda work: timed("forward", lambda: list(run(work)))
    owner._results = timed_start
    try:
        yield parts
    finally:
        runner.run = run
        owner._results = start


def _timed(device: torch.device, parts: Breakdown, name: str, function: Callable[[], Any]) -> Any:
    start = _now(device)
    result = function()
    setattr(parts, name, getattr(parts, name) + _now(device) - start)
    return result


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
