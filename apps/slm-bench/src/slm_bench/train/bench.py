"""What ``slm-bench train`` does: the same texts by every way, and what is claimed of slm-train."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

import torch
from transformers.utils import logging

from slm_bench.comparison import Comparison
from slm_bench.envelope import Envelope
from slm_bench.mistakes import one_sentence
from slm_bench.present import present
from slm_bench.sealing import seal
from slm_bench.train import budget, exactness, overhead, packed
from slm_bench.train.flags import MEASUREMENTS
from slm_bench.train.setting import options_of, read


def run(given: argparse.Namespace) -> int:
    """Measure, print, write and plot; 1 where a promise was not kept. Raises KVError for a user's mistake."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with one_sentence():
        return present(measure(given), given.json, given.plot)


def measure(given: argparse.Namespace) -> Envelope:
    """All that ``given`` asks for."""
    options, asked = options_of(given), given.only or MEASUREMENTS
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    setting = read(options)
    samples: dict[str, Any] = {"documents": [len(ids) for ids in setting.documents]}
    comparisons, left_out = list[Comparison](), dict[str, str]()
    promises = exactness.promises(setting) if "exactness" in asked else []
    if "budget" in asked:
        outcomes, left_out = budget.measure(setting)
        samples["budget"] = {name: [asdict(one) for one in found] for name, found in outcomes.items()}
        comparisons.append(budget.compare(outcomes))
    if "packed" in asked:
        samples["packed"] = packed.measure(setting)
        comparisons.append(packed.compare(samples["packed"]))
    if "overhead" in asked:
        found = overhead.measure(setting)
        samples["overhead"] = asdict(found)
        comparisons.append(overhead.compare(found))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return seal("train", asdict(options), samples, comparisons, promises, left_out=left_out, device=device)
