"""``slm-adapters export``: write a model or an adapter for llama.cpp and Ollama."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from pathlib import Path

from slm_adapters.base.log_filters import quiet_transformers
from slm_adapters.export.adapter_export import ExportedAdapter
from slm_adapters.export.export import export_gguf, export_gguf_adapter
from slm_adapters.export.model_export import ExportedModel
from slm_adapters.export.verification import TOLERANCE

PROMPT = "Once upon a time"


def run_export(options: argparse.Namespace) -> int:
    """Write the files and report; return 0, or 1 if the logits differ by more than rounding explains.

    Raises AdapterError, with nothing written, for what cannot be read, written or expressed in GGUF.
    """
    quiet_transformers()
    shared = {"dtype": options.dtype, "base": options.base, "overwrite": options.overwrite}
    if options.adapter_only:
        return _report_adapter(export_gguf_adapter(options.run, options.out, **shared), options)
    return _report_model(export_gguf(options.run, options.out, probe=options.probe, **shared), options)


def _report_model(exported: ExportedModel, options: argparse.Namespace) -> int:
    dtype = options.dtype
    _print_file(exported.file, options)
    verification, difference = exported.verification, exported.verification.difference
    print(
        f"logits of the file ({verification.reader}) compared with the model, {difference.tokens} tokens: largest "
        f"difference {difference.largest:.2g}, largest logit {difference.logit:.3g}"
    )
    print(f"greedy next token: the same at {difference.agreeing} of {difference.tokens} positions")
    for note in exported.notes:
        print(f"note: {note}")
    if not verification.fits(dtype):
        print(
            f"slm-adapters: the file differs by {difference.relative:.2g} of its largest logit, more than rounding to "
            f"{dtype} explains ({TOLERANCE[dtype]:g}); do not use {exported.file}",
            file=sys.stderr,
        )
        return 1
    _print_commands(exported)
    return 0


def _print_file(file: Path, options: argparse.Namespace) -> None:
    print(f"exported {options.run}: {file}, {options.dtype}, {file.stat().st_size / 1e6:,.1f} MB")


def _report_adapter(exported: ExportedAdapter, options: argparse.Namespace) -> int:
    _print_file(exported.file, options)
    print(f"{exported.layers} layers, of rank {exported.ranks}, for the base {exported.base}")
    print(f"llama.cpp  llama-cli -m BASE.gguf --lora {_quote(exported.file)} -p {shlex.quote(PROMPT)}")
    print(f"Ollama     a Modelfile with FROM ./BASE.gguf and ADAPTER {_quote(exported.file)}")
    return 0


def _print_commands(exported: ExportedModel) -> None:
    name = re.sub(r"[^a-z0-9._-]+", "-", exported.file.parent.resolve().name.lower()).strip("-.") or "model"
    how = "-cnv" if exported.is_chat else f"-no-cnv -p {shlex.quote(PROMPT)}"
    print(f"Ollama     ollama create {name} -f {_quote(exported.modelfile)} && ollama run {name}")
    print(f"llama.cpp  llama-cli -m {_quote(exported.file)} {how}")


def _quote(path: Path) -> str:
    return shlex.quote(str(path))
