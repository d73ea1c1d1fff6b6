"""``slm-adapters``: merge an adapter into its base, or look at what a run left."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from transformers.utils import logging as transformers_logging

from slm_adapters.base.base_lookup import recorded_base
from slm_adapters.base.model_folder import ModelFolder, read_model_folder
from slm_adapters.errors import AdapterError
from slm_adapters.inspection.description import describe, method
from slm_adapters.inspection.text import as_text
from slm_adapters.loading.load import load
from slm_adapters.merging.logit_comparison import (
    LOGIT_TOLERANCE,
    PROBE_TEXT,
    LogitDifference,
    compare_logits,
    probe_ids,
    probe_logits,
)
from slm_adapters.merging.merged_folder import check_output_folder, reload_model, write_model

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

ABOUT = "Adapters of slm-train and PEFT: merge one into its base model, or see what a run left."
MERGE = """\
Merge an adapter into its base, in float32, and save a plain transformers model: config, safetensors and
tokenizer, for whatever loads GPT-2, Llama and the like. An adapter trained over 4-bit weights (qlora) is merged into
those weights, dequantised. OUT is then loaded again, and its logits are compared with those of the adapter."""
MERGE_EXAMPLES = """\
examples:
  slm-adapters merge outputs/lora outputs/lora-merged
  slm-adapters merge outputs/qlora /models/stories --dtype bfloat16
  slm-adapters merge outputs/lora merged --base ./models/distilgpt2    (the base in a folder of yours)

exit code: 0 merged; 1 merged, but the answers differ by more than rounding explains; 2 refused, nothing written"""
INSPECT = """\
Say what is in the folder of a run, a model or an adapter: the method, its base, sizes; for butterfly adapters how far
each layer is rotated. Reads the configuration and the weight file; the base model is not loaded."""
INSPECT_EXAMPLES = """\
examples:
  slm-adapters inspect outputs/lora
  slm-adapters inspect outputs/butterfly --json"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence; argparse would print its usage before it."""
        raise AdapterError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``slm-adapters`` with ``argv`` (the process's own by default); returns the exit code."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        options = _parser().parse_args(argv)
        code: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("slm-adapters: stopped", file=sys.stderr)
        return 130
    except AdapterError as mistake:
        print(f"slm-adapters: {mistake}", file=sys.stderr)
        return 2
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="slm-adapters", description=ABOUT, epilog="slm-adapters COMMAND --help shows examples.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    layout: Any = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    merge = commands.add_parser(
        "merge", help="merge an adapter into its base", description=MERGE, epilog=MERGE_EXAMPLES, **layout
    )
    merge.add_argument("adapter", metavar="RUN", type=Path, help="folder of a run of slm-train, or of a PEFT adapter")
    merge.add_argument("out", metavar="OUT", type=Path, help="folder to make; must not exist or be empty")
    merge.add_argument("--base", metavar="B", help="the base: a folder or a name. Default: the one that RUN names")
    merge.add_argument("--dtype", choices=DTYPES, default="float32", help="of the saved weights. Default: %(default)s")
    merge.add_argument("--overwrite", action="store_true", help="replace a model that is in OUT")
    merge.add_argument("--probe", metavar="TEXT", default=PROBE_TEXT, help="compare the models on this text")
    merge.set_defaults(run=_merge)
    look = commands.add_parser(
        "inspect", help="what a run left", description=INSPECT, epilog=INSPECT_EXAMPLES, **layout
    )
    look.add_argument("folder", metavar="RUN", type=Path, help="folder of a run, a model or an adapter")
    look.add_argument("--json", action="store_true", help="print JSON")
    look.set_defaults(run=_inspect)
    return parser


def _inspect(options: argparse.Namespace) -> int:
    found = describe(read_model_folder(options.folder))
    print(json.dumps(found, indent=2) if options.json else as_text(found))
    return 0


def _merge(options: argparse.Namespace) -> int:
    adapter = read_model_folder(options.adapter)
    if not adapter.holds_adapter:
        raise AdapterError(f"{adapter.path} holds a whole model already; there is no adapter to merge")
    base = Path(options.base or recorded_base(adapter) or adapter.path).expanduser()
    check_output_folder(options.out, [adapter.path, *([base] if base.is_dir() else [])], options.overwrite)
    model_path, dtype = options.base or adapter.path, DTYPES[options.dtype]
    loaded = load(model_path, adapter.path, dtype=torch.float32)
    ids = probe_ids(loaded, options.probe)
    before = probe_logits(loaded.model, ids)
    del loaded
    merged = load(model_path, adapter.path, merge=True, dtype=dtype)
    write_model(merged, options.out)
    found = compare_logits(before, probe_logits(reload_model(options.out, merged.model), ids))
    return _report(adapter, merged.base, options, found, LOGIT_TOLERANCE[dtype])


def _report(
    adapter: ModelFolder, base: str, options: argparse.Namespace, found: LogitDifference, tolerance: float
) -> int:
    print(f"merged {adapter.path} ({method(adapter)}) into {base}: {options.out}, {options.dtype}")
    print(
        f"logits of the merged model against the adapter on its base, {found.tokens} tokens: largest difference "
        f"{found.largest:.2g}, largest logit {found.logit:.3g}"
    )
    print(f"greedy next token: the same at {found.agreeing} of {found.tokens} positions")
    if found.relative <= tolerance:
        return 0
    print(
        f"slm-adapters: the merged model differs by {found.relative:.2g} of its largest logit, more than rounding to "
        f"{options.dtype} explains ({tolerance:g}); do not use {options.out}",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
