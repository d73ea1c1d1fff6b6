"""slm-train's defaults beside the Trainer's: what somebody gets who sets nothing.

The peer: rows cut off and padded to the block, float32, torch's own number of threads. Ours: packed rows, bfloat16
where the device multiplies in it, probed threads, output layer and loss in one, GELU as one kernel. Both train every
weight; padding is not counted, nor is the first step of a run.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from slm_bench.comparison import Comparison, Row
from slm_bench.train.clock import timed
from slm_bench.train.flows import flow_trainer
from slm_bench.train.setting import Setting
from slm_bench.train.ways import padded
from slm_bench.turns import ratio
from slm_train import device_defaults, fastest_threads

OURS, PEER = "slm-train's defaults: packed, fused", "the Trainer's defaults: padded to the block"


def measure(setting: Setting) -> dict[str, list[float]]:
    """Real tokens a second of each round."""
    before, probed = torch.get_num_threads(), fastest_threads()
    sides = {OURS: (_ours, probed), PEER: (_peer, before)}
    found: dict[str, list[float]] = {name: [] for name in sides}
    try:
        for turn in range(setting.options.rounds):
            for name in list(sides) if turn % 2 else list(sides)[::-1]:
                side, threads = sides[name]
                torch.set_num_threads(threads)
                found[name].append(side(setting))
                print(f"round {turn + 1}: {name} {found[name][-1]:,.0f} tokens/s", file=sys.stderr)
    finally:
        torch.set_num_threads(before)
    return found


def compare(found: dict[str, list[float]]) -> Comparison:
    """Speed over the peer's, pair by pair."""
    pairs = [ours / peer for ours, peer in zip(found[OURS], found[PEER], strict=True)]
    return Comparison(
        "defaults against defaults",
        (
            Row(OURS, {"tokens/s / the Trainer's": ratio(pairs)}, _speed(found[OURS])),
            Row(PEER, {}, _speed(found[PEER])),
        ),
    )


def _speed(found: Sequence[float]) -> dict[str, float]:
    return {"real tokens/s": ratio(found)[0]}


def _ours(setting: Setting) -> float:
    options = replace(setting.options, bf16=device_defaults().bf16, mode="baseline")
    words = f"--packing best_fit --per_device_train_batch_size {options.batch}"
    with tempfile.TemporaryDirectory() as folder:
        return timed(flow_trainer(replace(setting, options=options), folder, 0, words))


def _peer(setting: Setting) -> float:
    options = setting.options
    cut: Any = [ids[: options.block_size] for ids in setting.documents]
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder,
            max_steps=options.steps,
            per_device_train_batch_size=options.batch,
            report_to="none",
            save_strategy="no",
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            disable_tqdm=True,
        )
        model = setting.model(0, ours=False, mode="baseline")
        return timed(Trainer(model, settings, partial(padded, length=options.block_size), cut))
