"""A merged model as a folder of its own, and the proof that it answers as the adapter did."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from slm_adapters.errors import AdapterError
from slm_adapters.folders import MODEL_CONFIG, RUN
from slm_adapters.loading import Loaded

PROBE = "Once upon a time a small model read 1,024 books. What it remembered of them was"
# Largest difference of logits, as a share of the largest logit, that rounding the weights explains.
TOLERANCE = {torch.float32: 1e-2, torch.float16: 2e-2, torch.bfloat16: 1e-1}
WRITTEN = {".json", ".safetensors", ".jinja", ".txt", ".model", ".md"}  # the kinds of file in such a folder


@dataclass(frozen=True)
class Difference:
    """Logits of the merged model against those of the adapter on its base, over ``tokens`` of a text."""

    largest: float  # absolute difference
    logit: float  # largest magnitude of a logit
    agreeing: int  # positions with the same greedy next token
    tokens: int

    @property
    def relative(self) -> float:
        return self.largest / max(self.logit, 1e-30)


def check_out(out: Path, kept: list[Path], overwrite: bool) -> None:
    """Refuse an ``out`` that holds anything, unless it is a plain model folder and ``overwrite`` says so; and one
    that lies over a folder of ``kept``."""
    if out.exists() and not out.is_dir():
        raise AdapterError(f"{out} is a file; give a folder that does not exist yet")
    for path in kept:
        if path.resolve().is_relative_to(out.resolve()):
            raise AdapterError(f"{out} holds what is to be merged; give another folder")
    entries = sorted(out.iterdir()) if out.is_dir() else []
    if not entries:
        return
    if not overwrite:
        raise AdapterError(f"{out} is not empty; give another folder, or --overwrite to replace the model in it")
    alien = [entry.name for entry in entries if not _is_ours(entry)]
    if alien or not (out / MODEL_CONFIG).is_file():
        hint = f"it holds {alien[0]}" if alien else f"it has no {MODEL_CONFIG}"
        raise AdapterError(f"{out} is not a folder with a merged model ({hint}) and is left alone; give another folder")


def _is_ours(entry: Path) -> bool:
    return entry.is_file() and entry.suffix in WRITTEN and entry.name != RUN


def write_model(loaded: Loaded, out: Path) -> None:
    """Model and tokenizer as transformers reads them, written aside and renamed: ``out`` is whole or absent.

    Raises AdapterError where the disk is full or closed to the user; what was in ``out`` is then still there."""
    out = out.resolve()
    aside = out.with_name(f".{out.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)  # left by a merge that was killed
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        loaded.model.save_pretrained(aside)
        loaded.tokenizer.save_pretrained(aside)
        _to_disk(aside)
        _replace(out, aside)
    except (OSError, SafetensorError) as fault:
        raise AdapterError(f"cannot write {out}: {fault}; give a folder on another disk") from fault
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _to_disk(folder: Path) -> None:
    for file in folder.iterdir():
        with file.open("rb") as written:
            os.fsync(written.fileno())


def _replace(out: Path, new: Path) -> None:
    """A folder with files in it cannot be renamed over: what is there steps aside first."""
    old = out.with_name(f".{out.name}.old")
    if out.exists():
        shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
    new.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def probe_ids(loaded: Loaded, text: str) -> Tensor:
    """``text`` as ``[1, tokens]``, cut to the model's context."""
    ids = loaded.tokenizer(text, return_tensors="pt")["input_ids"][:, : _context(loaded.model)]
    if not ids.numel():
        raise AdapterError(f"the probe {text!r} has no tokens; give another --probe")
    embeddings: Any = loaded.model.get_input_embeddings()
    if (top := int(ids.max())) >= (size := embeddings.num_embeddings):
        raise AdapterError(f"the tokenizer gives token {top} and the model knows {size}; they do not belong together")
    return ids.long()


def _context(model: PreTrainedModel) -> int:
    return int(getattr(model.config, "max_position_embeddings", None) or 1024)


@torch.no_grad()
def logits(model: PreTrainedModel, input_ids: Tensor) -> Tensor:
    """``[tokens, vocabulary]``, float32, on the CPU."""
    found: Tensor = model(input_ids=input_ids.to(model.device), use_cache=False).logits[0]
    return found.float().cpu()


def reload(out: Path, like: PreTrainedModel) -> PreTrainedModel:
    """What plain transformers makes of ``out``, computing in float32."""
    model: Any = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    plain: PreTrainedModel = model.to(like.device).eval()
    return plain


def difference(before: Tensor, after: Tensor) -> Difference:
    """Of logits ``[tokens, vocabulary]``."""
    same = before.argmax(-1) == after.argmax(-1)
    return Difference(float((before - after).abs().max()), float(before.abs().max()), int(same.sum()), len(same))
