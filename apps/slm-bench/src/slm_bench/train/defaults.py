"""Defaults compared: the speed of slm-train and of the plain Trainer without any settings.

slm-train packs rows, uses bfloat16 if the device has instructions for it, measures the best number of threads, fuses
output layer and loss, and runs GELU as one kernel. The Trainer uses rows cut off and padded to the block size, float32
and PyTorch's number of threads. Both train every weight. Neither padding nor the first step of a run counts.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from slm_bench.harness.comparison import Comparison, Row
from slm_bench.harness.interleaved_timing import interleave, paired_ratio, spread_of
from slm_bench.train.contenders import pad, peer_arguments
from slm_bench.train.inputs import Inputs
from slm_bench.train.slm_trainers import flow_trainer
from slm_bench.train.step_timing import tokens_per_second
from slm_train import device_defaults, fastest_threads

OURS, PEER = "slm-train's defaults: packed, fused", "the Trainer's defaults: padded to the block"


def measure(inputs: Inputs) -> dict[str, list[float]]:
    """Return predicted tokens per second of each round."""
    threads = torch.get_num_threads()
    contenders = {
        OURS: partial(_run, _slm_train, inputs, fastest_threads()),
        PEER: partial(_run, _plain_trainer, inputs, threads),
    }
    try:
        return interleave(contenders, inputs.options.rounds, "packed")
    finally:
        torch.set_num_threads(threads)


def compare(speeds: dict[str, list[float]]) -> Comparison:
    """Return slm-train's speed over the Trainer's, round by round."""
    ratios = {OURS: {"tokens/s / the Trainer's": paired_ratio(speeds[OURS], speeds[PEER])}, PEER: {}}
    rows = (Row(name, ratios[name], {"real tokens/s": spread_of(speeds[name])[0]}) for name in ratios)
    return Comparison("defaults against defaults", tuple(rows))


def _run(trainer: Callable[[Inputs, str], Any], inputs: Inputs, threads: int, _: int) -> float:
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        return tokens_per_second(trainer(inputs, folder))


def _slm_train(inputs: Inputs, folder: str) -> Any:
    options = replace(inputs.options, bf16=device_defaults().bf16, mode="baseline")
    words = f"--packing best_fit --per_device_train_batch_size {options.batch}"
    return flow_trainer(replace(inputs, options=options), folder, 0, words)


def _plain_trainer(inputs: Inputs, folder: str) -> Any:
    options = inputs.options
    cut: Any = [ids[: options.block_size] for ids in inputs.documents]
    flags = peer_arguments(inputs, folder, 0, options.batch, options.budget)  # no accumulation
    settings = TrainingArguments(**flags | {"bf16": False})
    model = inputs.new_model(0, ours=False, mode="baseline")
    return Trainer(model, settings, partial(pad, length=options.block_size), cut)
