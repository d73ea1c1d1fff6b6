"""Sizes of the files in a run folder."""

from __future__ import annotations

from pathlib import Path

WEIGHT_FILES = ("adapter_model.safetensors", "model.safetensors", "model-*.safetensors")


def weight_file_bytes(folder: Path) -> float | None:
    """Return the size of the weight files (adapter or whole model) that serving needs; None if there are none."""
    files = [file for pattern in WEIGHT_FILES for file in folder.glob(pattern)]
    return float(sum(file.stat().st_size for file in files)) if files else None


def checkpoint_bytes(folder: Path) -> float | None:
    """Return the size of a checkpoint; None if there is none. The largest counts, because others may be incomplete."""
    of_dynamic_runs = [file.stat().st_size for file in folder.glob("dynamic_checkpoint.pt")]
    of_trainer_runs = [_folder_bytes(path) for path in folder.glob("checkpoint-*") if path.is_dir()]
    sizes = [*of_dynamic_runs, *of_trainer_runs]
    return float(max(sizes)) if sizes else None


def _folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
