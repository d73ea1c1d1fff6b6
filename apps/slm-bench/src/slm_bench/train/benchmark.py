"""Training benchmark: the same texts for every contender, and slm-train's guarantees."""

import argparse
from dataclasses import asdict

import torch
from transformers.utils import logging

from slm_bench.harness.provenance import new_result
from slm_bench.harness.result_file import Findings, ResultFile
from slm_bench.train import budget, defaults, exactness, overhead
from slm_bench.train.arguments import MEASUREMENTS
from slm_bench.train.inputs import options_from, read_inputs


def measure(arguments: argparse.Namespace) -> ResultFile:
    """Run the requested measurements."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    options, requested = options_from(arguments), arguments.only or MEASUREMENTS
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    inputs = read_inputs(options)
    findings = Findings({"documents": [len(ids) for ids in inputs.documents]})
    if "exactness" in requested:
        findings.guarantees = exactness.check_all(inputs)
    if "budget" in requested:
        outcomes, findings.left_out = budget.measure(inputs)
        findings.add("budget", outcomes, budget.compare(outcomes))
    if "packed" in requested:
        speeds = defaults.measure(inputs)
        findings.add("packed", speeds, defaults.compare(speeds))
    if "overhead" in requested:
        costs = overhead.measure(inputs)
        findings.add("overhead", costs, overhead.compare(costs))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return new_result("train", asdict(options), findings, device)
