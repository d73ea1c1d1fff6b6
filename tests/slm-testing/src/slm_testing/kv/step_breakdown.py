"""The parts of an engine's step: forward pass, sampling, and everything else on the host."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
    parts, any_engine = Breakdown(), engine
    runner: Any = engine._runner
    run, fetch = runner.run, engine._fetch

    def timed_run(work: Any) -> list[Any]:
        start = _now(engine.device)
        results = list(run(work))
        parts.forward += _now(engine.device) - start
        return results

    def timed_fetch(items: Any) -> Any:
        start = _now(engine.device)
        results = fetch(items)
        parts.sampling += _now(engine.device) - start
        return results

    runner.run, any_engine._fetch = timed_run, timed_fetch
    try:
        yield parts
    finally:
        runner.run, any_engine._fetch = run, fetch


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
