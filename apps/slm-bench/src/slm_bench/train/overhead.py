"""Overhead of the token-budget loop over a bare training loop, and of its checkpoints over none.

After each step of the loop, a bare loop (forward, backward, clipping, optimizer) trains a second model on the same
micro-batches, collated in advance. Then runs with a checkpoint after every step alternate with runs without
checkpoints.
"""

import tempfile
from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from slm_bench.harness.comparison import Comparison, Figure, Row
from slm_bench.harness.interleaved_timing import order_of_round, paired_ratio, spread_of
from slm_bench.train.inputs import Inputs
from slm_bench.train.slm_trainers import NEVER, budget_trainer
from slm_bench.train.step_timing import StepTimer, synchronized_time, train_quietly
from slm_train import BudgetTrainer, MicroBatch, Shares, make_micro_batches

# JSON keys: seconds of steps in the loop and in the bare loop; seconds of runs with a checkpoint after every step and
# without; the share of the former that the loop waited for checkpoints.
SAMPLES = ("loop", "bare", "kept", "without", "waited")


def measure(inputs: Inputs) -> dict[str, list[float]]:
    """Return ``SAMPLES`` of all rounds; the round's number is the seed."""
    samples: dict[str, list[float]] = {name: [] for name in SAMPLES}
    for seed in range(inputs.options.rounds):
        bare = _run_with_bare_steps(inputs, seed)
        timers = {interval: _run(inputs, seed, interval) for interval in order_of_round((1, NEVER), seed)}
        kept, without = timers[1], timers[NEVER]
        waited = (kept.waits[-1] - kept.waits[0]) / kept.seconds
        # The first step warms up.
        steps = bare.loop_seconds[1:], bare.bare_seconds[1:]
        for name, values in zip(SAMPLES, (*steps, [kept.seconds], [without.seconds], [waited]), strict=True):
            samples[name] += values
    return samples


def compare(samples: Mapping[str, list[float]]) -> Comparison:
    """Return times over those without a loop, and without checkpoints."""
    loop, bare, kept, without, waited = (samples[name] for name in SAMPLES)
    figures: dict[str, Figure] = {"samples": len(kept), "of the time waited for": f"{spread_of(waited)[0]:.2%}"}
    of_loop = Row("the loop", {"time / without": paired_ratio(loop, bare)}, {"samples": len(loop)})
    saving = Row("a checkpoint after every step", {"time / without": paired_ratio(kept, without)}, figures)
    return Comparison("what the loop and its checkpoints cost", (of_loop, saving))


class BareSteps(TrainerCallback):
    """Repeats each step of the loop in a bare loop, on the model of ``twin``, and records the seconds of both."""

    def __init__(self, twin: BudgetTrainer):
        self.twin, plan = twin, twin.plan
        rows: Any = twin.train_dataset
        collator: Any = twin.data_collator
        batches = make_micro_batches(rows, Shares(plan), collator)
        self.batches = [list(islice(batches, len(plan.micro_batches(step)))) for step in range(len(plan))]
        self.model: Any = twin.model
        self.optimizer = twin.create_optimizer()
        self.loop_seconds: list[float] = []
        self.bare_seconds: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.model.train()
        self.start = synchronized_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        middle = synchronized_time()
        self._step(len(self.bare_seconds))
        end = synchronized_time()
        self.loop_seconds.append(middle - self.start)
        self.bare_seconds.append(end - middle)
        self.start = end

    def _step(self, step: int) -> None:
        for batch in self.batches[step]:
            self._loss(batch, int(self.twin.plan.tokens[step])).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.twin.args.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _loss(self, batch: MicroBatch, tokens: int) -> Tensor:
        device = self.twin.args.device
        inputs = {name: value.to(device) for name, value in batch.items()}
        with self.twin.loss_context(), torch.autocast(device.type, torch.bfloat16, enabled=self.twin.args.bf16):
            loss: Tensor = self.model(**inputs, use_cache=False, num_items_in_batch=torch.tensor(tokens)).loss
        return loss


def _run_with_bare_steps(inputs: Inputs, seed: int) -> BareSteps:
    with tempfile.TemporaryDirectory() as folder:
        bare = BareSteps(budget_trainer(inputs, folder, seed, "none"))
        train_quietly(budget_trainer(inputs, folder, seed, "none"), bare)
    return bare


def _run(inputs: Inputs, seed: int, interval: int) -> StepTimer:
    """Run with a checkpoint every ``interval`` steps."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = budget_trainer(inputs, folder, seed, "none", interval=interval)
        timer = StepTimer(trainer.checkpoint)
        train_quietly(trainer, timer)
    return timer
