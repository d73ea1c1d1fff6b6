"""What the token-budget loop costs beside a bare one, and its checkpoints beside none.

    uv run python scripts/bench_loop_overhead.py --varied

Each step of the loop is followed by the same micro-batches, collated before, in a bare loop on a model of its own:
forward, backward, clip, optimizer. Then runs with a checkpoint after every step beside runs without, and the share of
its time that the loop itself waited for checkpoints. Texts, model and flags are those of bench_budget.py.
"""

from __future__ import annotations

import random
import tempfile
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from budget_runs import NEVER, Clock, loop_trainer, now, train
from budget_setting import Setting, begin, keep, spread
from slm_train.dynamic import BudgetTrainer
from slm_train.micro_batches import Batch, Shares, micro_batches


class Bare(TrainerCallback):
    """After each step of the loop the same one bare, on the model of ``twin``: seconds of both."""

    def __init__(self, twin: BudgetTrainer):
        self.twin, plan = twin, twin.plan
        rows: Any = twin.train_dataset
        collator: Any = twin.data_collator
        batches = micro_batches(rows, Shares(plan), collator)
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
        self.step(len(self.bare))
        end = now()
        self.loop.append(middle - self.start)
        self.bare.append(end - middle)
        self.start = end

    def step(self, step: int) -> None:
        for batch in self.batches[step]:
            self.loss(batch, int(self.twin.plan.tokens[step])).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.twin.args.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def loss(self, batch: Batch, tokens: int) -> Tensor:
        device = self.twin.args.device
        inputs = {name: value.to(device) for name, value in batch.items()}
        with self.twin.loss_context(), torch.autocast(device.type, torch.bfloat16, enabled=self.twin.args.bf16):
            loss: Tensor = self.model(**inputs, use_cache=False, num_items_in_batch=torch.tensor(tokens)).loss
        return loss


def overhead(setting: Setting) -> dict[str, list[float]]:
    """By what part the loop's steps are longer than bare ones, and steps with a checkpoint than those without."""
    found: dict[str, list[float]] = {"loop over bare": [], "checkpoints over none": [], "waited for checkpoints": []}
    for seed in range(setting.options.rounds):
        bare = beside_bare(setting, seed)
        found["loop over bare"] += [a / b - 1 for a, b in zip(bare.loop[1:], bare.bare[1:], strict=True)]
        clocks = {every: run_with(setting, seed, every) for every in random.sample((1, NEVER), 2)}
        kept, without = clocks[1], clocks[NEVER]
        found["checkpoints over none"].append(kept.seconds / without.seconds - 1)
        found["waited for checkpoints"].append((kept.waits[-1] - kept.waits[0]) / kept.seconds)
    return found


def beside_bare(setting: Setting, seed: int) -> Bare:
    with tempfile.TemporaryDirectory() as folder:
        bare = Bare(loop_trainer(setting, folder, seed, "none", NEVER))
        train(loop_trainer(setting, folder, seed, "none", NEVER), bare)
    return bare


def run_with(setting: Setting, seed: int, interval: int) -> Clock:
    """A run that writes a checkpoint every ``interval`` steps."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = loop_trainer(setting, folder, seed, "none", interval)
        clock = Clock(trainer.checkpoint)
        train(trainer, clock)
    return clock


def main() -> None:
    setting = begin(__doc__)
    found = overhead(setting)
    for name, parts in found.items():
        print(f"{name:24}{spread(parts, '+.2%')}, {len(parts)} samples")
    keep(setting, found)


if __name__ == "__main__":
    main()
