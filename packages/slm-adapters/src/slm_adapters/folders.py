"""What lies in a folder, a model or an adapter, told by its small files and the headers of its weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from slm_adapters.errors import AdapterError

MODEL_CONFIG, ADAPTER_CONFIG, RUN = "config.json", "adapter_config.json", "run.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "spiece.model")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class TensorHead:
    """What a safetensors header says of a tensor; ``dtype`` in its words: F32, BF16, U8 ..."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def count(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Folder:
    """A folder with a model or an adapter whose weight files are there and whole; made by ``read_folder``."""

    path: Path
    holds_adapter: bool
    config: dict[str, Any]  # config.json, or adapter_config.json
    run: dict[str, Any]  # run.json of slm-train; empty where there is none
    weights: tuple[Path, ...]

    @property
    def has_tokenizer(self) -> bool:
        return any((self.path / name).is_file() for name in TOKENIZER_FILES)

    @property
    def four_bit(self) -> bool:
        """Whether the adapter was trained over 4-bit weights, as far as its run says so."""
        asked: Any = self.run.get("arguments", {})
        return self.holds_adapter and (self.run.get("mode") == "qlora" or bool(asked.get("load_in_4bit")))

    @property
    def size(self) -> int:
        """Bytes of the weight files."""
        return sum(file.stat().st_size for file in self.weights)

    @cached_property
    def tensors(self) -> dict[str, TensorHead]:
        """Each tensor by its name in the files."""
        return {name: head for file in self.weights for name, head in _header(file).items()}

    def values(self) -> Iterator[tuple[str, Tensor]]:
        """Each tensor itself, one at a time."""
        for file in self.weights:
            with safe_open(file, "pt") as held:
                for name in sorted(held.keys()):
                    yield name, held.get_tensor(name)


def read_folder(path: str | Path) -> Folder:
    """Look into ``path`` without loading weights.

    Raises AdapterError for a folder that is missing, holds neither model nor adapter or both, has a config that
    is no JSON, or weights that are missing, pickled or cut short.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        hint = "is a file; give the folder it lies in" if folder.is_file() else "does not exist; check the path"
        raise AdapterError(f"folder {path} {hint}")
    adapter, model = (folder / ADAPTER_CONFIG).is_file(), (folder / MODEL_CONFIG).is_file()
    if adapter and model:
        raise AdapterError(
            f"folder {path} holds both {MODEL_CONFIG}, of a model, and {ADAPTER_CONFIG}; give each its own folder"
        )
    if not adapter and not model:
        raise AdapterError(f"folder {path} has neither {MODEL_CONFIG} nor {ADAPTER_CONFIG}; {_neither(folder)}")
    config = read_json(folder / (ADAPTER_CONFIG if adapter else MODEL_CONFIG))
    found = Folder(folder, adapter, config, _run(folder), _weights(folder, adapter))
    assert found.tensors is not None  # reads the headers: cut short is found here
    return found


def read_json(path: Path) -> dict[str, Any]:
    """The object in ``path``. Raises AdapterError where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as broken:
        raise AdapterError(f"{path} is not valid JSON ({broken}); repair it or copy it again") from broken
    if not isinstance(found, dict):
        raise AdapterError(f"{path} holds no JSON object; repair it or copy it again")
    return found


def _neither(folder: Path) -> str:
    checkpoints = [path.name for path in folder.glob("checkpoint-*") if path.is_dir()]
    if checkpoints:
        last = max(checkpoints, key=lambda name: int(name.rpartition("-")[2]) if name[-1].isdigit() else -1)
        return f"its run has not finished; give one of its checkpoints, such as {folder / last}"
    return "give the folder of a run, of a model or of an adapter"


def _run(folder: Path) -> dict[str, Any]:
    """The record of the run; that of a checkpoint lies one folder up."""
    places = [folder, folder.absolute().parent] if folder.name.startswith("checkpoint-") else [folder]
    return next((read_json(at / RUN) for at in places if (at / RUN).is_file()), {})


def _weights(folder: Path, adapter: bool) -> tuple[Path, ...]:
    name = "adapter_model.safetensors" if adapter else "model*.safetensors"
    if files := tuple(sorted(folder.glob(name))):
        return files
    stem = "adapter_model" if adapter else "pytorch_model"
    for pickle in sorted(path for kind in PICKLES for path in folder.glob(kind)):
        if pickle.name.startswith((stem, "model")):
            raise AdapterError(f"{pickle} is a pickle, and loading a pickle can run code; save it again as safetensors")
    raise AdapterError(f"folder {folder} has no weights ({name.replace('*', '')}); copy them there or give another")


def _header(file: Path) -> dict[str, TensorHead]:
    try:
        with safe_open(file, "pt") as held:
            slices = {name: held.get_slice(name) for name in held.keys()}  # noqa: SIM118  # it is no dict
            return {name: TensorHead(tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except (SafetensorError, OSError) as broken:
        raise AdapterError(f"{file} is damaged or cut short ({broken}); copy it again") from broken
