"""``slm-adapters merge``: write a merged model to a folder, and compare it with the adapter on its base."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from slm_adapters.base.base_lookup import recorded_base
from slm_adapters.base.log_filters import quiet_transformers
from slm_adapters.base.model_folder import ModelFolder, read_model_folder
from slm_adapters.cards.readme_file import README, has_own_readme
from slm_adapters.errors import AdapterError
from slm_adapters.inspection.description import method_name
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


def run_merge(options: argparse.Namespace) -> int:
    """Merge the adapter, compare and report; return 0, or 1 if the logits differ by more than rounding explains.

    Raises AdapterError, with nothing written, for folders that cannot be read or must not be written.
    """
    quiet_transformers()
    adapter = read_model_folder(options.adapter)
    if not adapter.holds_adapter:
        raise AdapterError(f"{adapter.path} already holds a whole model; there is no adapter to merge")
    base = Path(options.base or recorded_base(adapter) or adapter.path).expanduser()
    check_output_folder(options.out, [adapter.path, *([base] if base.is_dir() else [])], options.overwrite)
    merged_base, difference = _merge_and_compare(adapter, options)
    _print_result(adapter, merged_base, options, difference)
    return _exit_code(options, difference)


def _merge_and_compare(adapter: ModelFolder, options: argparse.Namespace) -> tuple[str, LogitDifference]:
    model_path = options.base or adapter.path
    loaded = load(model_path, adapter.path, dtype=torch.float32)
    ids = probe_ids(loaded, PROBE_TEXT if options.probe is None else options.probe)
    before = probe_logits(loaded.model, ids)
    del loaded  # one model in memory at a time
    merged = load(model_path, adapter.path, merge=True, dtype=getattr(torch, options.dtype))
    write_model(merged, options.out)
    after = probe_logits(reload_model(options.out, merged.model), ids)
    return merged.base, compare_logits(before, after)


def _print_result(adapter: ModelFolder, base: str, options: argparse.Namespace, difference: LogitDifference) -> None:
    print(f"merged {adapter.path} ({method_name(adapter)}) into {base}: {options.out}, {options.dtype}")
    print(
        f"logits of the merged model compared with the adapter on its base, {difference.tokens} tokens: largest "
        f"difference {difference.largest:.2g}, largest logit {difference.logit:.3g}"
    )
    print(f"greedy next token: the same at {difference.agreeing} of {difference.tokens} positions")
    if has_own_readme(options.out):
        print(f"{options.out / README} is your own and was left as it is: no model card was written")


def _exit_code(options: argparse.Namespace, difference: LogitDifference) -> int:
    tolerance = LOGIT_TOLERANCE[getattr(torch, options.dtype)]
    if difference.relative <= tolerance:
        return 0
    print(
        f"slm-adapters: the merged model differs by {difference.relative:.2g} of its largest logit, more than rounding "
        f"to {options.dtype} explains ({tolerance:g}); do not use {options.out}",
        file=sys.stderr,
    )
    return 1
