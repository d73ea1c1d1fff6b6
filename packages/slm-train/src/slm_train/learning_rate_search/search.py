"""``--find_learning_rate``: short trials of several rates from the same start, on the rows of the run.

A trial takes a few optimizer steps and is judged by the loss on training rows that its steps do not contain. Few steps
favour rates that are high for a whole run, so the lowest rate that comes close to the best is used (`choose`).
Afterwards weights, buffers, gradients and random states are what they were, so the run is that of ``--learning_rate
CHOSEN``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.utils.data import DataLoader, Subset

from slm_data import RowDataset
from slm_train.arguments import Arguments
from slm_train.data.trial_rows import TrialRows, choose_trial_rows, micro_batches
from slm_train.errors import TrainError
from slm_train.learning_rate_search.model_snapshot import ModelSnapshot
from slm_train.loop.evaluation import evaluate
from slm_train.loop.micro_batches import count_predicted
from slm_train.loop.trainer import SlmTrainer

TRIAL_STEPS = 10
WARMUP_STEPS = 2
FACTOR = 3.0  # between neighbouring rates
MAX_TRIALS = 5
CLOSE = 0.9  # of the largest fall of the loss; lower rates that reach it are preferred


@dataclass(frozen=True)
class Trial:
    """A learning rate and the loss after its trial; ``math.inf`` if it diverged."""

    learning_rate: float
    loss: float


@dataclass(frozen=True)
class LearningRateSearch:
    """The result of a search: the loss before any step, the trials by rate, and the rate that is used."""

    loss_before: float
    trials: tuple[Trial, ...]
    chosen: float

    def as_dict(self) -> dict[str, Any]:
        """Return the entry of run.json. The loss of a trial that diverged is None."""
        trials = [asdict(trial) | {"loss": trial.loss if trial.loss < math.inf else None} for trial in self.trials]
        return asdict(self) | {"trials": trials, "steps": TRIAL_STEPS}

    def lines(self) -> list[str]:
        """Return the lines of a table."""
        lines = [f"{'learning rate':>15}  {'loss before':>11}  {'loss after':>11}"]
        for trial in self.trials:
            after = f"{trial.loss:11.4f}" if trial.loss < math.inf else f"{'diverged':>11}"
            mark = "  chosen" if trial.learning_rate == self.chosen else ""
            lines.append(f"{trial.learning_rate:15.2g}  {self.loss_before:11.4f}  {after}{mark}")
        return lines


def search_learning_rate(
    trainer: SlmTrainer, arguments: Arguments, train: RowDataset, print_line: Callable[[str], None]
) -> LearningRateSearch:
    """Search around the learning rate of ``trainer.args``, print a table, and set the rate to use.

    Every process must call this; all come to the same result. Raises TrainError if all rates diverge.
    """
    rows = choose_trial_rows(arguments, train, TRIAL_STEPS)
    print_line(
        f"--find_learning_rate: trials of {TRIAL_STEPS} steps, judged on {len(rows.judged):,} training "
        f"{'row' if len(rows.judged) == 1 else 'rows'}"
    )
    trials = _Trials(trainer, arguments, train, rows)
    try:
        loss_before = trials.judge()
        tried = explore(trials.loss_after, trainer.args.learning_rate)
    finally:
        trials.start.restore()
    chosen = choose(tried, loss_before)
    search = LearningRateSearch(loss_before, tried, chosen.learning_rate)
    for line in search.lines():
        print_line(line)
    if chosen.loss == math.inf:
        raise TrainError(f"every learning rate down to {search.chosen:.2g} diverged; give a lower --learning_rate")
    trainer.args.learning_rate = search.chosen
    return search


def explore(loss_after: Callable[[float], float], centre: float) -> tuple[Trial, ...]:
    """Try ``centre`` and its neighbours, then further rates while the best is the lowest or the highest.

    Returns the trials, three to five, by rate.
    """
    trials: dict[int, Trial] = {}
    waiting = [-1, 0, 1]
    while waiting and len(trials) < MAX_TRIALS:
        power = waiting.pop(0)
        rate = float(f"{centre * FACTOR**power:.2g}") if power else centre
        trials[power] = Trial(rate, loss_after(rate))
        if not waiting:
            best = min(trials, key=lambda power: (trials[power].loss, power))
            waiting = [best - 1] if best == min(trials) else [best + 1] if best == max(trials) else []
    return tuple(trials[power] for power in sorted(trials))


def best_of(trials: tuple[Trial, ...]) -> Trial:
    """Return the trial with the lowest loss; among equal ones the one with the lowest rate."""
    return min(trials, key=lambda trial: (trial.loss, trial.learning_rate))


def choose(trials: tuple[Trial, ...], loss_before: float) -> Trial:
    """Return the trial with the lowest rate whose loss fell by at least `CLOSE` of the largest fall.

    If no loss fell, return the trial with the lowest loss.
    """
    best = best_of(trials)
    enough = min(loss_before - CLOSE * (loss_before - best.loss), loss_before)
    close = [trial for trial in trials if trial.loss <= enough and trial.loss < math.inf]
    return min(close, key=lambda trial: trial.learning_rate, default=best)


class _Trials:
    """Takes trial steps with the loss, the precision and the optimizer of a trainer."""

    def __init__(self, trainer: SlmTrainer, arguments: Arguments, train: RowDataset, rows: TrialRows):
        self.trainer, self.arguments, self.train, self.rows = trainer, arguments, train, rows
        model: Any = trainer.model
        self.model: nn.Module = model
        if trainer.args.gradient_checkpointing:  # as the run itself will do; otherwise memory may not suffice
            model.gradient_checkpointing_enable(trainer.args.gradient_checkpointing_kwargs)
        self.device, self.ranks = trainer.args.device, trainer.accelerator.num_processes
        self.start = ModelSnapshot(model)

    def loss_after(self, rate: float) -> float:
        """Return the loss after a trial of ``rate``, from the same start; infinity if it is not finite."""
        self.start.restore()
        self.model.zero_grad(set_to_none=True)
        optimizer = self._optimizer(rate)
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.trainer.args.fp16)
        self.model.train()
        for step, rows in enumerate(self.rows.steps, start=1):
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, step / WARMUP_STEPS)
            self._accumulate(rows, scaler)
            self._update(optimizer, scaler)
        loss = self.judge()
        return loss if math.isfinite(loss) else math.inf

    def judge(self) -> float:
        """Return the loss on the judged rows; each process evaluates a share of them."""
        rows, trainer = self.train, self.trainer
        share = self.rows.judged[trainer.args.process_index :: self.ranks]
        loader = DataLoader(Subset(rows, share), trainer.args.eval_batch_size, collate_fn=trainer.data_collator)
        return evaluate(self.model, loader, trainer.accelerator, tokens_per_byte=1.0, block_size=0).loss

    def _optimizer(self, rate: float) -> torch.optim.Optimizer:
        trainer = self.trainer
        usual, trainer.args.learning_rate, trainer.optimizer = trainer.args.learning_rate, rate, None
        try:
            return trainer.create_optimizer()
        finally:
            trainer.args.learning_rate, trainer.optimizer = usual, None

    def _accumulate(self, rows: list[int], scaler: torch.amp.GradScaler) -> None:
        """Leave the gradient of the mean loss over the tokens of a step; each process computes a share of it."""
        share = rows[self.trainer.args.process_index :: self.ranks]
        parts = micro_batches(self.arguments, self.train.plan.row_lengths, share)
        collate: Any = self.trainer.data_collator
        batches = [collate([self.train[row] for row in part]) for part in parts]
        tokens = self._summed(torch.tensor(float(sum(map(count_predicted, batches))), device=self.device))
        for batch in batches:
            if predicted := count_predicted(batch):
                inputs = {name: value.to(self.device) for name, value in batch.items()}
                with self.trainer.accelerator.autocast():
                    loss: Tensor = self.trainer.compute_loss(self.model, inputs)
                scaler.scale(loss * (predicted / tokens)).backward()

    def _update(self, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        for parameter in trained if self.ranks > 1 else ():
            gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            parameter.grad = self._summed(gradient)
        scaler.unscale_(optimizer)
        if self.trainer.args.max_grad_norm:
            nn.utils.clip_grad_norm_(trained, self.trainer.args.max_grad_norm)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    def _summed(self, value: Tensor) -> Tensor:
        """Return the sum of ``value`` over all processes."""
        if self.ranks > 1:
            distributed.all_reduce(value)
        return value
