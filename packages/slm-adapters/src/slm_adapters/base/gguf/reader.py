"""One parse of a GGUF file for all of transformers' readers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from threading import RLock
from typing import Any

from slm_adapters.base.gguf.file import is_gguf_path

_lock = RLock()  # one thread at a time replaces the class


@contextmanager
def parse_gguf_once(model_path: str | Path) -> Iterator[None]:
    """Within the block, each GGUF file is parsed once, without progress bars; nothing happens for other models.

    transformers 5.19 parses the whole file for the configuration (twice), the tokenizer and the weights. A parse of a
    vocabulary of 49,152 tokens takes three seconds of CPU.
    """
    if not is_gguf_path(model_path) or find_spec("gguf") is None:
        yield
        return
    import gguf
    from transformers import modeling_gguf_pytorch_utils as reading

    modules: tuple[Any, Any] = (gguf, reading)
    with _lock:
        reader, bar = modules[0].GGUFReader, modules[1].tqdm
        modules[0].GGUFReader, modules[1].tqdm = cache(reader), partial(bar, disable=True)
        try:
            yield
        finally:
            modules[0].GGUFReader, modules[1].tqdm = reader, bar
