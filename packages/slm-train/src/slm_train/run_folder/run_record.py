"""What a run leaves beside its weights: ``run.json``, whole at any moment, and ``metrics.jsonl``."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from slm_train.errors import UserError

RUN, METRICS = "run.json", "metrics.jsonl"
PACKAGES = ("slm-train", "slm-data", "slm-adapters", "torch", "transformers", "peft", "accelerate")


def read_run(folder: Path) -> dict[str, Any] | None:
    """The record of the run in ``folder``, or None where there is none."""
    path = folder / RUN
    try:
        return dict(json.loads(path.read_text())) if path.is_file() else None
    except ValueError as broken:
        raise UserError(f"{path} is not valid JSON; repair it or give another --output_dir") from broken


def write_run(folder: Path, record: dict[str, Any]) -> None:
    """Write aside and rename: a reader never sees half a record."""
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{RUN}.writing"
    aside.write_text(json.dumps(record, indent=2, default=str) + "\n")
    os.replace(aside, folder / RUN)


def environment(device: torch.device, device_name: str) -> dict[str, Any]:
    """Versions and machine, as far as they bear on the figures."""
    return {
        "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "device": {"type": device.type, "name": device_name, "threads": torch.get_num_threads()},
        "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()},
    }


def append_metrics(folder: Path, line: dict[str, Any]) -> None:
    with (folder / METRICS).open("a") as out:
        out.write(json.dumps(line) + "\n")


def cut_metrics(folder: Path, step: int) -> None:
    """Forget lines after ``step``: a run resumed from there writes them again."""
    _keep_lines(folder, lambda line: _step(line) <= step)


def cut_last_evaluation(folder: Path, step: int) -> None:
    """Forget the evaluation after ``step``, the last one of a run: it is made and logged again."""
    _keep_lines(folder, lambda line: _step(line) != step or '"eval_loss"' not in line)


def _keep_lines(folder: Path, wanted: Callable[[str], bool]) -> None:
    path = folder / METRICS
    if not path.is_file():
        return
    kept = [line for line in path.read_text().splitlines(keepends=True) if wanted(line)]
    aside = path.with_suffix(".writing")
    aside.write_text("".join(kept))
    os.replace(aside, path)


def metrics_size(folder: Path) -> int:
    """Bytes of the log so far."""
    path = folder / METRICS
    return path.stat().st_size if path.is_file() else 0


def cut_metrics_to(folder: Path, size: int) -> None:
    """Forget all but the first ``size`` bytes: those there were when a checkpoint was written."""
    if metrics_size(folder) > size:
        os.truncate(folder / METRICS, size)


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):  # the line that a kill cut short
        return float("inf")
