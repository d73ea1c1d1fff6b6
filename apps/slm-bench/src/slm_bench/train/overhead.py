"""What the token-budget loop costs beside a bare one, and its checkpoints beside none.

Each step of the loop is followed by the same micro-batches, collated before, in a bare loop on a model of its own:
forward, backward, clip, optimizer. Then runs with a checkpoint after every step beside runs without.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from slm_bench.comparison import Comparison, Row
from slm_bench.train.clock import Clock, now, train
from slm_bench.train.flows import NEVER, loop_trainer
from slm_bench.train.setting import Setting
from slm_bench.turns import Times, ratio
from slm_train import BudgetTrainer, Shares, make_micro_batches
from slm_train import MicroBatch as Batch


@dataclass
class Overhead:
    """Seconds of steps, by the loop and bare; of runs, with checkpoints and without; and the shares of those with
    that the loop waited for checkpoints."""

    loop: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)
    without: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)


def measure(setting: Setting) -> Overhead:
    """In turns."""
    found = Overhead()
    for seed in range(setting.options.rounds):
        bare = _beside_bare(setting, seed)
        found.loop += bare.loop[1:]
        found.bare += bare.bare[1:]
        clocks = {every: _run(setting, seed, every) for every in ((1, NEVER) if seed % 2 else (NEVER, 1))}
        kept, without = clocks[1], clocks[NEVER]
        found.kept.append(kept.seconds)
        found.without.append(without.seconds)
        found.waited.append((kept.waits[-1] - kept.waits[0]) / kept.seconds)
    return found


def compare(found: Overhead) -> Comparison:
    """Times over those of what has no loop, and no checkpoints."""
    loop, bare, kept, without = (
        Times(tuple(seconds)) for seconds in (found.loop, found.bare, found.kept, found.without)
    )
    rows = (
        Row("the loop", {"time / without": bare.over(loop)}, {"samples": len(found.loop)}),
        Row(
            "a checkpoint after every step",
            {"time / without": without.over(kept)},
            {"samples": len(found.kept), "of the time waited for": f"{ratio(found.waited)[0]:.2%}"},
        ),
    )
    return Comparison("what the loop and its checkpoints cost", rows)


class Bare(TrainerCallback):
    """After each step of the loop the same one bare, on the model of ``twin``: seconds of both."""

    def __init__(self, twin: BudgetTrainer):
        self.twin, plan = twin, twin.plan
        rows: Any = twin.train_dataset
        collator: Any = twin.data_collator
        batches = make_micro_batches(rows, Shares(plan), collator)
        self.batches = [list(islice(batches, len(plan.micro_batches(step)))) for step in range(len(plan))]
        self.model: Any = twin.model
        self.optimizer = twin.create_optimizer()
        self.loop: list[float] = []
        self.bare: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.model.train()
        self.start = now()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        middle = now()
        self._step(len(self.bare))
        end = now()
        self.loop.append(middle - self.start)
        self.bare.append(end - middle)
        self.start = end

    def _step(self, step: int) -> None:
        for batch in self.batches[step]:
            self._loss(batch, int(self.twin.plan.tokens[step])).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.twin.args.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _loss(self, batch: Batch, tokens: int) -> Tensor:
        device = self.twin.args.device
        inputs = {name: value.to(device) for name, value in batch.items()}
        with self.twin.loss_context(), torch.autocast(device.type, torch.bfloat16, enabled=self.twin.args.bf16):
            loss: Tensor = self.model(**inputs, use_cache=False, num_items_in_batch=torch.tensor(tokens)).loss
        return loss


def _beside_bare(setting: Setting, seed: int) -> Bare:
    with tempfile.TemporaryDirectory() as folder:
        bare = Bare(loop_trainer(setting, folder, seed, "none"))
        train(loop_trainer(setting, folder, seed, "none"), bare)
    return bare


def _run(setting: Setting, seed: int, interval: int) -> Clock:
    """A run that writes a checkpoint every ``interval`` steps."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = loop_trainer(setting, folder, seed, "none", interval=interval)
        clock = Clock(trainer.checkpoint)
        train(trainer, clock)
    return clock
