"""Tokens per second and memory of training: every mode, steps of different sizes, with and without compilation."""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from gpu_checks.measuring import PeakMemory, synchronized_time
from gpu_checks.models import save_model
from gpu_checks.recorder import Recorder
from gpu_checks.sizes import Sizes
from slm_testing.train.budget_runs import make_trainer
from slm_testing.train.device_runs import LossRecorder, NoCheckpoint, device_flags

COLUMNS = ("mode", "tokens per step", "compiled", "tokens/s", "peak memory, MB", "loss of the first step")
RESERVE, COMPILED_RESERVE = 8.0, 35.0  # seconds that measuring a case may take
TOLERANCE = 1e-2


Case = tuple[str, int, bool]  # mode, tokens of a step, whether it is compiled


@dataclass(frozen=True)
class Speed:
    """Predicted tokens per second, and the loss of the first step."""

    rate: float
    megabytes: float | None
    losses: tuple[float, ...]


def run(recorder: Recorder) -> None:
    """Measure all modes and sizes, then with compilation at the middle size, as long as there is time."""
    base, measured = save_model(recorder.sizes.speed_model, recorder.folder / "base"), dict[Case, Speed]()
    cases = eager_cases(recorder.sizes)
    compiled_cases = [(mode, middle(recorder.sizes), True) for mode in recorder.sizes.timed_modes if recorder.on_gpu]
    for case in [*cases, *compiled_cases]:
        if recorder.seconds_left < (COMPILED_RESERVE if case[2] else RESERVE):
            continue
        measured[case] = measure(recorder, base, *case)
        rows = [
            [mode, tokens, "yes" if compiled else "no", speed.rate, speed.megabytes, f"{speed.losses[0]:.5f}"]
            for (mode, tokens, compiled), speed in measured.items()
        ]
        recorder.table(f"Training, {recorder.sizes.speed_model}", COLUMNS, rows)
    finite = all(math.isfinite(loss) for speed in measured.values() for loss in speed.losses)
    count = sum(case in measured for case in cases)
    if finite and count < len(cases):
        recorder.skip("modes", f"there was time for {count} of {len(cases)} cases only; these trained")
    else:
        recorder.claim("modes", finite, f"{count} of {len(cases)} cases were measured")
    _record_compiled(recorder, measured)


def eager_cases(sizes: Sizes) -> list[Case]:
    """Return the cases without compilation: some modes at all sizes of a step, the others at the middle one."""
    modes = [*sizes.modes, *(["qlora"] if find_spec("bitsandbytes") else [])]
    cases = [(mode, tokens, False) for mode in sizes.timed_modes for tokens in sizes.step_tokens]
    return cases + [(mode, middle(sizes), False) for mode in modes if mode not in sizes.timed_modes]


def middle(sizes: Sizes) -> int:
    """Return the middle number of tokens of a step."""
    return sizes.step_tokens[len(sizes.step_tokens) // 2]


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


def _record_compiled(recorder: Recorder, measured: Mapping[Case, Speed]) -> None:
    differences = {}
    for (mode, tokens, compiled), speed in measured.items():
        if compiled:
            plain = measured[mode, tokens, False].losses[0]
            differences[mode] = abs(speed.losses[0] - plain) / plain
    if not differences:
        reason = "there was no time left to compile" if recorder.on_gpu else "compiling takes minutes on a CPU"
        recorder.skip("compile", reason)
        return
    worst = max(differences.values())
    observed = f"{worst:.1g}, modes {', '.join(differences)}"
    recorder.claim("compile", worst <= TOLERANCE, observed)
