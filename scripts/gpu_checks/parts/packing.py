"""Packed documents against the same documents one by one: logits, and the gradients of a training step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from gpu_checks.models import save_model
from gpu_checks.recorder import Recorder
from slm_testing.kv.tiny_models import make_model
from slm_testing.train.budget_runs import exactly, make_trainer, trained
from slm_testing.train.device_runs import device_flags
from slm_testing.train.gradients import relative_difference
from slm_train import find_packing_fault

MODES = ("baseline", "lora", "butterfly")
SHAPES = ("tiny gpt2", "tiny")
BLOCK, DOCUMENTS = 64, 12
MICRO_BATCH = 256
TOLERANCE = 1e-4


def run(recorder: Recorder) -> None:
    """Look for documents that influence each other, then compare steps."""
    faults = {}
    for name in recorder.sizes.exact_models:
        model: Any = make_model(name)
        faults[name] = find_packing_fault(model.to(recorder.device), BLOCK, autocast=torch.bfloat16) or "none"
    recorder.claim(
        "logits", set(faults.values()) == {"none"}, "; ".join(f"{name}: {fault}" for name, fault in faults.items())
    )
    differences: dict[tuple[str, str], float] = {}
    for shape in SHAPES:
        base = save_model(shape, recorder.folder / shape)
        differences |= {(shape, mode): difference(recorder, base, shape, mode) for mode in MODES}
        recorder.table("A step packed and unpacked", ["model", "mode", "difference of gradients"],
                       [[*case, value] for case, value in differences.items()])  # fmt: skip
    worst = max(differences.values())
    recorder.claim("gradients", worst <= TOLERANCE, f"{worst:.1g}")


def difference(recorder: Recorder, base: Path, shape: str, mode: str) -> float:
    """Return the relative difference of the gradients of one step over all documents, packed and unpacked."""
    gradients = []
    for packing in ("none", "best_fit"):
        folder = recorder.folder / f"{shape} {mode} {packing}"
        settings = {"mode": mode, "packing": packing, "lora_dropout": 0, "max_grad_norm": 0, "max_steps": 1}
        settings |= {"block_size": BLOCK, "max_train_samples": DOCUMENTS}
        settings |= {"target_tokens_per_step": 10**6, "max_tokens_per_micro_batch": MICRO_BATCH}
        flags = ["dynamic", *device_flags(base, folder, recorder.device, **settings)]
        gradients += trained(make_trainer(flags, folder, [], exactly))
    unpacked, packed = gradients
    return relative_difference(unpacked, packed)
