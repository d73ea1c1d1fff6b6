"""Opening GGUF files: checks that give one sentence each, and one parse of a file for all of its readers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np

from slm_kv.errors import KVError

MAGIC = b"GGUF"
_lock = RLock()  # one thread at a time replaces the class


def is_gguf_path(name: str) -> bool:
    """Whether ``name`` is meant to be a GGUF file."""
    return Path(name).suffix.lower() == ".gguf" and not Path(name).is_dir()


def check_gguf_file(path: Path) -> None:
    """Refuse a path that cannot be read as GGUF.

    Raises:
        KVError: it is missing or another file, or nothing is installed that reads it.
    """
    if not path.is_file():
        raise KVError(f"file {path} does not exist; check the path")
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise KVError(f"{path} is not a GGUF file: its first bytes are not GGUF; copy it again")
    if find_spec("gguf") is None:
        raise KVError(
            f"{path} needs the package gguf, which is not installed; install it with pip install slm-kv[gguf]"
        )


@contextmanager
def reading_once() -> Iterator[Any]:
    """Return a context in which each GGUF file is parsed once, by ``GGUFReader(path)``: the context's value.

    transformers 5.19 parses the whole file for the configuration (twice), the tokenizer and the weights. A parse of a
    vocabulary of 49,152 tokens takes three seconds of CPU, of which slicing numpy's memmap is the most.
    """
    import gguf

    module: Any = gguf
    with _lock:
        original = module.GGUFReader
        module.GGUFReader = cache(_fast_reader(original))
        try:
            yield module.GGUFReader
        finally:
            module.GGUFReader = original


def _fast_reader(reader: Any) -> Any:
    """A subclass of GGUFReader that reads its fields as plain arrays."""

    def get(self: Any, offset: Any, dtype: Any, count: Any = 1, override_order: Any = None) -> Any:
        order = override_order or self.byte_order
        return np.frombuffer(self.data.base, np.dtype(dtype).newbyteorder(order), int(count), int(offset))

    return type("FastReader", (reader,), {"_get": get})
