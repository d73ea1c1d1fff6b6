"""The tokenizer of a GGUF file."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from slm_kv.errors import KVError

# Packages that read the tokenizers of GGUF files exactly register ``load(path)`` under this entry point; it raises
# ValueError with one sentence. transformers 5.19 reads neither how text is split nor whether a text gets a first token.
ENTRY_POINT_GROUP = "slm_kv.gguf_tokenizers"
# What transformers takes for each architecture, by its names in GGUF ("default" is that of old files).
_GPT2_LIKE = ("gpt-2", "default")
_TAKEN = {"qwen2": ("qwen2", "default"), "qwen3": ("qwen2", "default")}
REMEDY = "install slm-adapters, which reads it, or load the model's folder"


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a file, by another package if one is registered for it.

    Raises:
        KVError: it cannot be read, or transformers would read it as another one.
    """
    if loader := _installed_loader():
        try:
            return loader(str(path))
        except ValueError as error:
            raise KVError(str(error)) from error
    import gguf

    reader = gguf.GGUFReader(str(path))
    fields = {
        name: reader.fields[key].contents()
        for name in ("model", "pre", "add_bos_token")
        if (key := f"tokenizer.ggml.{name}") in reader.fields
    }
    _check_split(path, fields, reader.fields["general.architecture"].contents())
    tokenizer: Any = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name, trust_remote_code=False)
    _check_first_token(path, fields, tokenizer)
    return tokenizer


def _installed_loader() -> Callable[[str], PreTrainedTokenizerBase] | None:
    """The loader that another package registered; with several, the first by name."""
    points = sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name)
    return points[0].load() if points else None


def _check_split(path: Path, fields: dict[str, Any], architecture: str) -> None:
    pre = fields.get("pre", "default")
    if fields.get("model") == "gpt2" and pre not in _TAKEN.get(architecture, _GPT2_LIKE):
        raise KVError(f"the tokenizer of {path} splits text as {pre!r}, which transformers does not read; {REMEDY}")


def _check_first_token(path: Path, fields: dict[str, Any], tokenizer: Any) -> None:
    adds = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    if "add_bos_token" in fields and tokenizer.bos_token_id is not None and bool(fields["add_bos_token"]) != adds:
        raise KVError(
            f"the tokenizer of {path} says that a text {'has no' if adds else 'has a'} first token, which transformers "
            f"does not read; {REMEDY}"
        )
