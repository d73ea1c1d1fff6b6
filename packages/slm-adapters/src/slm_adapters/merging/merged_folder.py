"""The folder of a merged model: checking what may be replaced, writing it atomically, reading it back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from slm_adapters.base.model_folder import MODEL_CONFIG, RUN_RECORD
from slm_adapters.base.soft_cap import apply_soft_cap
from slm_adapters.cards.readme_file import README, has_own_readme, write_model_card
from slm_adapters.errors import AdapterError
from slm_adapters.loading.load import Loaded
from slm_adapters.merging.merged_card import merged_card
from slm_adapters.merging.staged_folder import staged_folder

MODEL_FILE_SUFFIXES = {".json", ".safetensors", ".jinja", ".txt", ".model", ".md"}


def check_output_folder(out: Path, inputs: list[Path], overwrite: bool) -> None:
    """Raise AdapterError unless a merged model may be written to ``out``.

    ``out`` must not exist or must be empty, or with ``overwrite`` contain nothing but a merged model. It must not
    contain a folder of ``inputs``, which the merge reads.
    """
    if out.exists() and not out.is_dir():
        raise AdapterError(f"{out} is a file; give a folder that does not exist yet")
    for path in inputs:
        if path.resolve().is_relative_to(out.resolve()):
            raise AdapterError(f"{out} holds the base or the adapter to be merged; give another folder")
    entries = sorted(out.iterdir()) if out.is_dir() else []
    if not entries:
        return
    if not overwrite:
        raise AdapterError(f"{out} is not empty; give another folder, or --overwrite to replace the model in it")
    foreign = [entry.name for entry in entries if not _is_model_file(entry)]
    if foreign or not (out / MODEL_CONFIG).is_file():
        hint = f"it holds {foreign[0]}" if foreign else f"it has no {MODEL_CONFIG}"
        raise AdapterError(f"{out} is not a folder with a merged model ({hint}) and is left alone; give another folder")


def write_model(loaded: Loaded, out: Path) -> None:
    """Write model and tokenizer to ``out`` in transformers' format. After an error ``out`` is unchanged.

    A merged adapter also gets a model card, unless ``out`` has a README.md that the user wrote, which stays.

    Raises AdapterError if the disk is full or not writable.
    """
    out = out.resolve()
    with staged_folder(out) as staging:
        loaded.model.save_pretrained(staging)
        loaded.tokenizer.save_pretrained(staging)
        _add_readme(loaded, staging, out)


def reload_model(out: Path, like: PreTrainedModel) -> PreTrainedModel:
    """Load ``out`` with plain transformers, in float32, on the device of ``like``."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    model: PreTrainedModel = loaded.to(like.device).eval()
    return apply_soft_cap(model)


def _is_model_file(entry: Path) -> bool:
    # A run record marks the folder of a training run, which must not be replaced.
    return entry.is_file() and entry.suffix in MODEL_FILE_SUFFIXES and entry.name != RUN_RECORD


def _add_readme(loaded: Loaded, staging: Path, out: Path) -> None:
    if has_own_readme(out):
        shutil.copy2(out / README, staging / README)
    elif card := merged_card(loaded):
        write_model_card(staging, card)
