"""Tokens per second and memory of training, in every mode, for steps of different sizes, with and without compilation."""

from __future__ import annotations

import gc
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from gpu_checks.measuring import PeakMemory, synchronized_time
from gpu_checks.models import save_model
from gpu_checks.recorder import Recorder
from slm_testing.train.budget_runs import make_trainer
from slm_testing.train.device_runs import LossRecorder, NoCheckpoint, device_flags

COLUMNS = ("mode", "tokens per step", "compiled", "tokens/s", "peak memory, MB", "loss of the first step")
COMPILED_RESERVE = 40.0  # seconds that compiling and measuring a mode may take
TOLERANCE = 1e-2


@dataclass(frozen=True)
class Speed:
    """Predicted tokens per second, and the loss of the first step."""

    rate: float
    megabytes: float | None
    losses: tuple[float, ...]


def run(recorder: Recorder) -> None:
    """Measure all modes and sizes, then with compilation at the middle size, as long as there is time."""
    base, sizes = save_model(recorder.sizes.speed_model, recorder.folder / "base"), recorder.sizes.step_tokens
    cases = [(mode, tokens, False) for mode in recorder.sizes.modes for tokens in sizes]
    cases += [(mode, sizes[len(sizes) // 2], True) for mode in recorder.sizes.modes]
    measured: dict[tuple[str, int, bool], Speed] = {}
    for case in cases:
        if recorder.seconds_left < (COMPILED_RESERVE if case[2] else 5):
            continue
        measured[case] = measure(recorder, base, *case)
        rows = [
            [mode, tokens, "yes" if compiled else "no", speed.rate, speed.megabytes, f"{speed.losses[0]:.5f}"]
            for (mode, tokens, compiled), speed in measured.items()
        ]
        recorder.table(f"Training, {recorder.sizes.speed_model}", COLUMNS, rows)
    eager = [speed for (_, _, compiled), speed in measured.items() if not compiled]
    finite = all(math.isfinite(loss) for speed in eager for loss in speed.losses)
    wanted = len(sizes) * len(recorder.sizes.modes)
    recorder.claim("modes", finite and len(eager) == wanted, f"{len(eager)} of {wanted} cases were measured")
    _record_compiled(recorder, measured)


def measure(recorder: Recorder, base: Path, mode: str, tokens: int, compiled: bool) -> Speed:
    """Train for a few steps."""
    sizes, folder = recorder.sizes, recorder.folder / f"{mode}-{tokens}-{compiled}"
    settings = {"mode": mode, "bf16": "true", "torch_compile": str(compiled).lower(), "max_steps": 1 + sizes.steps}
    settings |= {"block_size": sizes.block_size, "max_train_samples": sizes.documents, "packing": "best_fit"}
    settings |= {"target_tokens_per_step": tokens, "log_interval": 1}
    settings |= {"max_tokens_per_micro_batch": min(tokens, sizes.micro_batch_tokens)}
    trainer: Any = make_trainer(["dynamic", *device_flags(base, folder, recorder.device, **settings)], folder, [])
    trainer.checkpoint = NoCheckpoint(folder, {}, print)
    losses, timer = LossRecorder(), _StepEnds(recorder.device)
    for callback in (losses, timer):
        trainer.add_callback(callback)
    with PeakMemory(recorder.device) as memory:
        trainer.train()
    rate = int(trainer.plan.tokens[1 : 1 + sizes.steps].sum()) / (timer.ends[-1] - timer.ends[0])
    del trainer
    gc.collect()
    torch.compiler.reset()
    if recorder.on_gpu:
        torch.cuda.empty_cache()
    return Speed(rate, memory.megabytes, tuple(losses.losses))


class _StepEnds(TrainerCallback):
    """Records when each step has ended on the device; the first one warms up."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.ends: list[float] = []

    def on_step_end(self, *_: object, **__: object) -> None:
        self.ends.append(synchronized_time(self.device))


def _record_compiled(recorder: Recorder, measured: dict[tuple[str, int, bool], Speed]) -> None:
    differences = {}
    for (mode, tokens, compiled), speed in measured.items():
        if compiled:
            plain = measured[mode, tokens, False].losses[0]
            differences[mode] = abs(speed.losses[0] - plain) / plain
    if not differences:
        recorder.skip("compile", "there was no time left to compile")
        return
    worst = max(differences.values())
    observed = f"{worst:.1g}, modes {', '.join(differences)}"
    recorder.claim("compile", worst <= TOLERANCE, observed)
