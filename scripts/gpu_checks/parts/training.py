"""Loss and gradients of one step of ``slm-train dynamic`` in every mode, against float64 on the CPU."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from gpu_checks.models import save_model
from gpu_checks.recorder import Recorder
from slm_testing.train.budget_runs import exactly, make_trainer, trained
from slm_testing.train.device_runs import LossRecorder, device_flags, reference_step
from slm_testing.train.gradients import relative_difference

SHAPE = "tiny gpt2"
BLOCK, STEP, MICRO_BATCH = 64, 400, 128
LOSS, GRADIENTS, AUTOCAST = 1e-5, 1e-4, 5e-2
COLUMNS = ("mode", "loss", "float64", "difference of gradients", "with bfloat16 autocast")


def run(recorder: Recorder) -> None:
    """Compare all modes; 4-bit weights have a part of their own."""
    base = save_model(SHAPE, recorder.folder / "base")
    rows: list[list[Any]] = []
    for mode in recorder.sizes.modes:
        loss, reference, difference = compare(recorder, base, mode, bf16=False)
        autocast = compare(recorder, base, mode, bf16=True)[2]
        rows.append([mode, loss, reference, difference, autocast])
        recorder.table("One step", COLUMNS, [[row[0], f"{row[1]:.7f}", f"{row[2]:.7f}", *row[3:]] for row in rows])
    losses = max(abs(loss - reference) / reference for _, loss, reference, _, _ in rows)
    recorder.claim("loss", losses <= LOSS, f"{losses:.1g}")
    for key, column, tolerance in (("gradients", 3, GRADIENTS), ("autocast", 4, AUTOCAST)):
        worst = max(rows, key=lambda row: float(row[column]))
        recorder.claim(key, all(row[column] <= tolerance for row in rows), f"{worst[column]:.1g} ({worst[0]})")


def compare(recorder: Recorder, base: Path, mode: str, *, bf16: bool) -> tuple[float, float, float]:
    """Return the loss of a step, the one in float64, and the relative difference of the gradients."""
    folder = recorder.folder / f"{mode}-{bf16}"
    settings = {"mode": mode, "bf16": str(bf16).lower(), "lora_dropout": 0, "max_grad_norm": 0, "max_steps": 1}
    settings |= {"block_size": BLOCK, "max_train_samples": recorder.sizes.documents, "log_interval": 1}
    settings |= {"target_tokens_per_step": STEP, "max_tokens_per_micro_batch": MICRO_BATCH, "packing": "best_fit"}
    trainer = make_trainer(["dynamic", *device_flags(base, folder, recorder.device, **settings)], folder, [], exactly)
    model: Any = trainer.model
    exact = copy.deepcopy(model).cpu().double()
    expected_loss, expected = reference_step(trainer, exact)
    recorded = LossRecorder()
    trainer.add_callback(recorded)
    gradients = {name: gradient.cpu() for name, gradient in trained(trainer)[0].items()}
    return recorded.losses[0], expected_loss, relative_difference(expected, gradients)
