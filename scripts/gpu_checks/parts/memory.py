"""The memory that ``--dry_run`` estimates, and the memory that the run takes."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gpu_checks.models import save_model
from gpu_checks.recorder import Recorder
from slm_testing.train.device_runs import device_flags, estimate_run
from slm_train import main

MODES = ("baseline", "lora", "butterfly")
FLAGS: tuple[Mapping[str, object], ...] = ({}, {"gradient_checkpointing": "true"}, {"fused_loss": "false"})
BATCH = 8
EXACT, PEAK = 0.01, 0.15
COLUMNS = ("mode", "flags", "estimated peak, MB", "measured peak, MB", "measured / estimated")


def run(recorder: Recorder) -> None:
    """Compare the estimate with a run, for each mode and set of flags."""
    base = save_model(recorder.sizes.speed_model, recorder.folder / "base")
    ratios, size_errors, rows = {}, {}, []
    for mode in MODES:
        for more in FLAGS if mode == "baseline" else FLAGS[:1]:
            case = f"{mode} {' '.join(more)}".strip()
            folder = recorder.folder / case
            settings = {"mode": mode, "bf16": "true", "per_device_train_batch_size": BATCH, "max_steps": 2, **more}
            settings |= {"block_size": recorder.sizes.block_size, "max_train_samples": recorder.sizes.documents}
            flags = device_flags(base, folder, recorder.device, **settings)
            _free(recorder)  # what is left of a run would count as that of the process
            estimate = estimate_run(flags)
            _free(recorder)
            if main(flags) != 0:
                raise RuntimeError(f"slm-train {' '.join(flags)} failed; see the log")
            measured = _recorded_memory(folder)
            size_errors[case] = max(
                abs(measured[name] / getattr(estimate, name) - 1) for name in ("weights", "gradients", "optimizer")
            )
            ratios[case] = measured["peak"] / estimate.peak
            rows.append([mode, " ".join(more), estimate.peak / 1e6, measured["peak"] / 1e6, f"{ratios[case]:.3f}"])
            recorder.table("Peak memory", COLUMNS, rows, f"{measured['kind']}, batches of {BATCH} rows.")
    worst = max(size_errors.values())
    recorder.claim("sizes", worst <= EXACT, f"{worst:.2%}")
    if recorder.on_gpu:
        far = max(ratios, key=lambda case: abs(ratios[case] - 1))
        recorder.claim("peak", abs(ratios[far] - 1) <= PEAK, f"measured / estimated {ratios[far]:.3f} ({far})")
    else:
        recorder.skip("peak", "resident memory of one process that runs several times tells nothing")


def _free(recorder: Recorder) -> None:
    gc.collect()
    if recorder.on_gpu:
        torch.cuda.empty_cache()


def _recorded_memory(folder: Path) -> dict[str, Any]:
    memory: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))["memory"]
    return memory
