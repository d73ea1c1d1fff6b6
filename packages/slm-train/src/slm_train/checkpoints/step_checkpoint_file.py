"""``dynamic_checkpoint.pt``: reading and checking it, and loading its weights."""

from __future__ import annotations

import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slm_train.errors import CheckpointError
from slm_train.sharding.whole_tensors import part_for

STEP_CHECKPOINT_FILE = "dynamic_checkpoint.pt"
FORMAT = 1

# Exceptions of zipfile and torch for damaged files.
_DAMAGE: tuple[type[Exception], ...] = (zipfile.BadZipFile, zlib.error, pickle.UnpicklingError)
_DAMAGE += (EOFError, LookupError, RuntimeError, TypeError, ValueError)
_REMEDY = "restore a copy of it, or start again with --overwrite_output_dir"


def read_step_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Return the content of the checkpoint in ``folder``, or None if there is none. Every byte is checked.

    Raises CheckpointError for a file that is damaged, of another format, or unreadable. Runs no code from the file.
    """
    path = folder / STEP_CHECKPOINT_FILE
    if not path.exists():
        return None
    content = read_verified(path, "a checkpoint")
    if "format" not in content:
        raise CheckpointError(f"{path} is not a checkpoint of slm-train dynamic; {_REMEDY}")
    if content["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has the format {content['format']}, but this slm-train reads {FORMAT}; update slm-train"
        )
    return content


def read_verified(path: Path, kind: str) -> dict[str, Any]:
    """Return the dict that ``torch.save`` wrote to ``path``. Every byte is checked, and no code from the file runs.

    Raises CheckpointError, which calls the file ``kind``, for one that is damaged or unreadable.
    """
    try:
        damaged_part = _damaged_part(path)
        content: Any = None if damaged_part else torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        raise CheckpointError(f"{path} is cut short or not {kind}; {_REMEDY}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}; {_REMEDY}") from error
    if damaged_part:
        raise CheckpointError(f"{path} is damaged at {damaged_part}; {_REMEDY}")
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not {kind}; {_REMEDY}")
    return content


def _damaged_part(path: Path) -> str | None:
    """Return the name of a part of the zip file whose checksum does not match, or None."""
    with zipfile.ZipFile(path) as archive:
        # torch writes no file attributes, so one that is set is damage. The checksums do not cover it, and torch would
        # treat that part as a folder and read nothing of it.
        marked = next((info.filename for info in archive.infolist() if info.external_attr), None)
        return marked or archive.testzip()


def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy ``weights``, which are whole, into the parameters of the same names, which may be sharded.

    Raises CheckpointError, before anything is copied, for weights of another model.
    """
    parameters = dict(model.named_parameters())
    for name, values in weights.items():
        if name not in parameters or parameters[name].shape != values.shape:
            raise CheckpointError(f"the checkpoint has {name} {list(values.shape)}, which this model does not have")
    with torch.no_grad():
        for name, values in weights.items():
            parameters[name].copy_(part_for(parameters[name], values))
