"""Folders of models and adapters: files, configurations and tensor headers, read without loading the weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from slm_adapters.errors import AdapterError

if TYPE_CHECKING:  # torch is loaded with the first tensor, not with this module
    from torch import Tensor

MODEL_CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
RUN_RECORD = "run.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "spiece.model")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class TensorHeader:
    """Shape and dtype of a tensor in a safetensors file; ``dtype`` is the format's name: F32, BF16, U8 ..."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def count(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class ModelFolder:
    """A folder with a model or an adapter whose weight files are complete; made by ``read_model_folder``."""

    path: Path
    holds_adapter: bool
    config: dict[str, Any]  # config.json, or adapter_config.json
    run: dict[str, Any]  # run.json of slm-train; empty if there is none
    weights: tuple[Path, ...]

    @property
    def has_tokenizer(self) -> bool:
        """Whether a tokenizer's files are in the folder."""
        return any((self.path / name).is_file() for name in TOKENIZER_FILES)

    @property
    def four_bit(self) -> bool:
        """Whether the adapter was trained over 4-bit weights, which only its run record says."""
        arguments: Any = self.run.get("arguments", {})
        return self.holds_adapter and (self.run.get("mode") == "qlora" or bool(arguments.get("load_in_4bit")))

    @property
    def size(self) -> int:
        """Bytes of the weight files."""
        return sum(file.stat().st_size for file in self.weights)

    @cached_property
    def tensors(self) -> dict[str, TensorHeader]:
        """The header of each tensor by its name in the files."""
        return {name: header for file in self.weights for name, header in _read_headers(file).items()}

    @property
    def dtype(self) -> str:
        """The widest floating-point dtype of the matrices in the files: F64, F32, F16 or BF16; F32 if there is none."""
        names = {header.dtype for header in self.tensors.values() if len(header.shape) > 1}
        if {"F16", "BF16"} <= names:
            return "F32"
        return next((name for name in ("F64", "F32", "F16", "BF16") if name in names), "F32")

    def values(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the name and values of each tensor, loading one at a time."""
        for file in self.weights:
            with safe_open(file, "pt") as tensors:
                for name in sorted(tensors.keys()):
                    yield name, tensors.get_tensor(name)


def read_model_folder(path: str | Path) -> ModelFolder:
    """Read the configuration and the tensor headers in ``path``.

    Raises AdapterError for a folder that is missing, that does not hold exactly one of a model and an adapter, whose
    config is not JSON, or whose weights are missing, pickled or cut short.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        hint = "is a file; give the folder that contains it" if folder.is_file() else "does not exist; check the path"
        raise AdapterError(f"folder {path} {hint}")
    adapter, model = (folder / ADAPTER_CONFIG).is_file(), (folder / MODEL_CONFIG).is_file()
    if adapter and model:
        raise AdapterError(
            f"folder {path} holds both {MODEL_CONFIG}, of a model, and {ADAPTER_CONFIG}; give each its own folder"
        )
    if not adapter and not model:
        raise AdapterError(
            f"folder {path} has neither {MODEL_CONFIG} nor {ADAPTER_CONFIG}; {_remedy_without_config(folder)}"
        )
    config = read_json(folder / (ADAPTER_CONFIG if adapter else MODEL_CONFIG))
    model_folder = ModelFolder(folder, adapter, config, _read_run_record(folder), _weight_files(folder, adapter))
    _ = model_folder.tensors  # reads the headers, so that files that are cut short are refused here
    return model_folder


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in ``path``. Raises AdapterError if the file holds anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise AdapterError(f"{path} is not valid JSON ({error}); repair it or copy it again") from error
    if not isinstance(content, dict):
        raise AdapterError(f"{path} holds no JSON object; repair it or copy it again")
    return content


def _remedy_without_config(folder: Path) -> str:
    checkpoints = [path.name for path in folder.glob("checkpoint-*") if path.is_dir()]
    if checkpoints:
        last = max(checkpoints, key=lambda name: int(name.rpartition("-")[2]) if name[-1].isdigit() else -1)
        return f"its run has not finished; give one of its checkpoints, such as {folder / last}"
    return "give the folder of a run, of a model or of an adapter"


def _read_run_record(folder: Path) -> dict[str, Any]:
    """Return run.json, which a checkpoint shares with the run folder above it; empty if there is none."""
    folders = [folder, folder.absolute().parent] if folder.name.startswith("checkpoint-") else [folder]
    return next((read_json(path / RUN_RECORD) for path in folders if (path / RUN_RECORD).is_file()), {})


def _weight_files(folder: Path, adapter: bool) -> tuple[Path, ...]:
    pattern = "adapter_model.safetensors" if adapter else "model*.safetensors"
    if files := tuple(sorted(folder.glob(pattern))):
        return files
    stem = "adapter_model" if adapter else "pytorch_model"
    for pickle in sorted(path for suffix in PICKLES for path in folder.glob(suffix)):
        if pickle.name.startswith((stem, "model")):
            raise AdapterError(f"{pickle} is a pickle, and loading a pickle can run code; save it again as safetensors")
    raise AdapterError(
        f"folder {folder} has no weights ({pattern.replace('*', '')}); copy them there or give another folder"
    )


def _read_headers(file: Path) -> dict[str, TensorHeader]:
    try:
        with safe_open(file, "np") as tensors:  # "np" suffices for headers; "pt" would import torch
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118  # not a dict
            return {name: TensorHeader(tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{file} is damaged or cut short ({error}); copy it again") from error
