"""``--mode qlora``: its gradients against the same weights in float64, and a short run."""

from __future__ import annotations

import copy
import math
from typing import Any

from gpu_checks.models import save_model
from gpu_checks.recorder import Recorder
from slm_testing.adapters.four_bit_weights import dequantised
from slm_testing.train.budget_runs import exactly, make_trainer, trained
from slm_testing.train.device_runs import LossRecorder, device_flags, reference_step
from slm_testing.train.gradients import relative_difference

SHAPE = "tiny gpt2"
BLOCK, STEP, MICRO_BATCH, STEPS = 64, 400, 128, 12
TOLERANCE = 1e-4


def run(recorder: Recorder) -> None:
    """Compare one step in float32, then train with the defaults of the device."""
    base = save_model(SHAPE, recorder.folder / "base")
    trainer, _ = _trainer(recorder, base, "exact", exactly, lora_dropout=0, max_grad_norm=0, max_steps=1)
    exact = dequantised(copy.deepcopy(trainer.model)).cpu().double()
    _, expected = reference_step(trainer, exact)
    difference = relative_difference(expected, {name: each.cpu() for name, each in trained(trainer)[0].items()})
    recorder.claim("gradients", difference <= TOLERANCE, f"{difference:.1g}")
    trainer, losses = _trainer(recorder, base, "run", None, max_steps=STEPS, learning_rate=1e-2, bf16="true")
    trainer.train()
    holds = all(map(math.isfinite, losses.losses)) and losses.losses[-1] < losses.losses[0]
    recorder.claim("training", holds, f"loss {losses.losses[0]:.3f}, after {STEPS} steps {losses.losses[-1]:.3f}")


def _trainer(recorder: Recorder, base: Any, name: str, prepare: Any, **more: object) -> tuple[Any, LossRecorder]:
    settings = {"mode": "qlora", "block_size": BLOCK, "max_train_samples": recorder.sizes.documents, "log_interval": 1}
    settings |= {"target_tokens_per_step": STEP, "max_tokens_per_micro_batch": MICRO_BATCH, "packing": "best_fit"}
    folder, recorded = recorder.folder / name, LossRecorder()
    flags = ["dynamic", *device_flags(base, folder, recorder.device, **settings, **more)]
    trainer = make_trainer(flags, folder, [], prepare)
    trainer.add_callback(recorded)
    return trainer, recorded
