"""All checks by the heading of their column in the table."""

from __future__ import annotations

from collections.abc import Callable

from slm_testing.zoo.architecture import Architecture
from slm_testing.zoo.checks import adapters, generation, training
from slm_testing.zoo.checks.outcome import Outcome

Check = Callable[[Architecture], Outcome]

CHECKS: dict[str, Check] = {
    "packing": training.packing,
    "fused loss": training.fused_loss,
    "LoRA": adapters.lora,
    "butterfly": adapters.butterfly,
    "engine": generation.engine,
    "window": generation.window,
    "serve": generation.serve,
}
