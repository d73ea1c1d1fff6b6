"""One parse of a GGUF file for all of transformers' readers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from threading import RLock
from typing import Any

from slm_adapters.base.gguf_file import is_gguf_path

_lock = RLock()  # one thread at a time replaces the class


@contextmanager
def parse_gguf_once(model_path: str | Path) -> Iterator[None]:
    """Within the block, each GGUF file is parsed once; nothing happens for another ``model_path``.

    transformers 5.19 parses the whole file for the configuration (twice), the tokenizer and the weights. A parse of a
    vocabulary of 49,152 tokens takes three seconds of CPU.
    """
    if not is_gguf_path(model_path) or find_spec("gguf") is None:
        yield
        return
    import gguf

    module: Any = gguf
    with _lock:
        reader = module.GGUFReader
        module.GGUFReader = cache(reader)
        try:
            yield
        finally:
            module.GGUFReader = reader
