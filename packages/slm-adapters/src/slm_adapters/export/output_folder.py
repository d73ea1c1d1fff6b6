"""The folder of an exported model: what may be replaced, and the name of its file."""

from __future__ import annotations

from pathlib import Path

from slm_adapters.errors import AdapterError
from slm_adapters.export.ollama.modelfile import MODELFILE


def check_output_folder(out: Path, overwrite: bool) -> None:
    """Raise AdapterError unless an exported model may be written to ``out``.

    ``out`` must not exist or must be empty, or with ``overwrite`` contain nothing but an exported model.
    """
    if out.suffix.lower() == ".gguf":
        raise AdapterError(f"{out} must be a folder, for the GGUF file and its Modelfile; give {out.with_suffix('')}")
    if out.exists() and not out.is_dir():
        raise AdapterError(f"{out} is a file; give a folder that does not exist yet")
    entries = sorted(out.iterdir()) if out.is_dir() else []
    if entries and not overwrite:
        raise AdapterError(f"{out} is not empty; give another folder, or --overwrite to replace the model in it")
    if foreign := [entry.name for entry in entries if entry.suffix != ".gguf" and entry.name != MODELFILE]:
        raise AdapterError(
            f"{out} is not a folder with an exported model (it holds {foreign[0]}) and is left alone; give another "
            "folder"
        )


def file_name(out: Path, dtype: str) -> str:
    """Return the name of the GGUF file in ``out``."""
    return f"{out.resolve().name}-{dtype}.gguf"


def model_name(out: Path, strips_after_specials: bool) -> str:
    """Return the name of the model in the file.

    llama.cpp strips spaces after the special tokens of models whose name contains phi-3, and of no others.
    transformers 5.19 takes a Llama called mistral for another architecture, and fails.
    """
    name = out.resolve().name if out.resolve().name != "mistral" else "Mistral"
    has_mark = "phi-3" in name.lower() or "phi3" in name.lower()
    if strips_after_specials:
        return name if has_mark else f"{name} (phi-3)"
    return name.lower().replace("phi-3", "phi 3").replace("phi3", "phi 3") if has_mark else name
