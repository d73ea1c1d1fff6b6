"""The token-budget loop: plan, micro-batches, step, checkpoint.

The plan fixes the micro-batches of each step. Each micro-batch adds the sum of its losses, divided by the predicted
tokens of the whole step on all processes, so the gradient is that of one large batch (``loss_normalization``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import set_seed
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import TrainOutput

from slm_data import BudgetPlan, RowCollator, RowDataset
from slm_train.checkpoints.checkpoint_schedule import CheckpointSchedule
from slm_train.checkpoints.random_state import random_state, set_random_state
from slm_train.checkpoints.step_checkpoint import StepCheckpoint
from slm_train.checkpoints.step_checkpoint_file import load_weights
from slm_train.hardware.memory_usage import MemoryUsage
from slm_train.hardware.synchronization import synchronize
from slm_train.loop.changed_settings import NewSettings
from slm_train.loop.finite_check import check_evaluation
from slm_train.loop.gradient_accumulation import GradientAccumulation
from slm_train.loop.learning_rate import follow_tokens, update_learning_rate, warmup_in_tokens
from slm_train.loop.micro_batches import MicroBatch, Shares, make_micro_batches
from slm_train.loop.step_metrics import StepMetrics, StepSums
from slm_train.loop.time_budget import TrainingTime
from slm_train.loop.trainer import SlmTrainer
from slm_train.losses.loss_normalization import step_mean
from slm_train.options.budget import BudgetOptions
from slm_train.run_folder.metrics_file import metrics_size
from slm_train.sharding.whole_tensors import whole


class BudgetTrainer(SlmTrainer):
    """An SlmTrainer whose loop follows a BudgetPlan.

    Args:
        plan: All steps and micro-batches of the run.
        budget: The options of the loop.
        checkpoint: Writes the checkpoints.
        state: The content of the checkpoint to continue from, or None.
        print_line: Prints a line.
        settings: As for SlmTrainer.
    """

    optimizer: Any
    lr_scheduler: Any

    def __init__(
        self,
        *,
        plan: BudgetPlan,
        budget: BudgetOptions,
        checkpoint: StepCheckpoint,
        state: dict[str, Any] | None,
        print_line: Callable[[str], None],
        **settings: Any,
    ):
        super().__init__(**settings)
        self.plan, self.budget, self.checkpoint, self.resume_state = plan, budget, checkpoint, state
        self.rank, self.ranks = self.accelerator.process_index, self.accelerator.num_processes
        self.trained_seconds = 0.0  # of this process, without evaluations and checkpoints
        self._best_step_saved: int = state["best"]["step"] if state else 0
        self.schedule = CheckpointSchedule(budget.steps_between_checkpoints, decides=self.rank == 0)
        self.accumulation = GradientAccumulation(
            self.accelerator, self._loss, print_line, is_sharded=bool(self.args.fsdp)
        )

    def _inner_training_loop(self, *_: Any, **__: Any) -> TrainOutput:
        """Replace transformers' inner loop; its set-up (activation checkpointing, callbacks) is still used."""
        model = self._begin()
        try:
            self._take_steps(model)
        except BaseException:
            self.checkpoint.join()  # the lock of the folder is about to be freed
            raise
        return self._end()

    def _take_steps(self, model: nn.Module) -> None:
        batches = self._micro_batches()
        for step in range(self.state.global_step, len(self.plan)):
            is_due = self._take_step(model, step, batches)
            is_last = step + 1 == len(self.plan)
            must_stop, is_due = self._agree(must_stop=not is_last and self.control.should_training_stop, is_due=is_due)
            is_evaluated = self._is_due(self.budget.eval_interval)
            is_due = is_due or is_last or (self.schedule.is_automatic and is_evaluated)
            is_saved = must_stop or is_due or is_evaluated
            self.check_finite(is_read=self._is_due(self.budget.log_interval), is_saved=is_saved)
            if self._is_due(self.budget.log_interval) or is_last:
                self.log(self.metrics.log_line(self.accelerator, self.memory))
            if is_evaluated or (is_last and self.best.is_used):
                check_evaluation(self.evaluate(), self.state.global_step)
                self._track_best()
                must_stop = must_stop or (not is_last and self.best.is_exhausted)
            if is_due or must_stop:
                self._write_step_checkpoint()
            if must_stop:
                break

    def _take_step(self, model: nn.Module, step: int, batches: Iterator[MicroBatch]) -> bool:
        """Take one optimizer step; return whether a checkpoint is due after it."""
        start, rate = time.perf_counter(), self.lr_scheduler.get_last_lr()[0]
        share = self.plan.share(step, self.rank, self.ranks)
        rank_batches = list(islice(batches, len(share)))
        predicted, slots = int(self.plan.tokens[step]), sum(batch["input_ids"].numel() for batch in rank_batches)
        loss = self.accumulation(model, rank_batches, predicted, self.plan.max_share_size(step, self.ranks))
        norm = self._clip(model)
        self.finite_check.add_loss(loss)
        self.finite_check.end_step(step + 1, norm, rate)
        self.control = self.callback_handler.on_pre_optimizer_step(self.args, self.state, self.control)
        self.checkpoint.before_update()
        self.optimizer.step()
        self.lr_scheduler.step()  # after skipped steps too: the rate is a function of the step in the plan
        self.optimizer.zero_grad()
        self.state.global_step = step + 1
        self.state.epoch = self.plan.progress(step)
        self.state.num_input_tokens_seen += predicted
        self.trained_tokens += predicted
        is_due = self.schedule.is_due(step + 1, self.trained_seconds + time.perf_counter() - start)
        if is_due or self._is_interrupted():
            synchronize(self.args.device)
        seconds = time.perf_counter() - start
        self.trained_seconds += seconds
        sums = StepSums(loss, predicted, self.plan.real_tokens(share), slots, seconds)
        self.metrics.add(sums, tokens=self.state.num_input_tokens_seen, norm=norm, rate=rate)
        self.control = self.callback_handler.on_step_end(self.args, self.state, self.control)
        return is_due

    def _loss(self, model: nn.Module, inputs: MicroBatch, batch_tokens: int, step_tokens: int) -> Tensor:
        """Return the part that a micro-batch contributes to the mean loss of its step."""
        model_loss = partial(self.compute_loss, model, inputs)
        accepts_token_count = bool(self.model_accepts_loss_kwargs)
        return step_mean(model_loss, batch_tokens, step_tokens, self.ranks, accepts_token_count=accepts_token_count)

    def _clip(self, model: nn.Module) -> Tensor:
        """Clip the gradient of the step; return its norm before clipping, over all processes."""
        if self.args.max_grad_norm and self.args.max_grad_norm > 0:
            norm: Any = self.accelerator.clip_grad_norm_(model.parameters(), self.args.max_grad_norm)
        else:
            self.accelerator.unscale_gradients()
            norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        return whole(norm)

    def _micro_batches(self) -> Iterator[MicroBatch]:
        rows, collator, args = self.train_dataset, self.data_collator, self.args
        assert isinstance(rows, RowDataset)
        assert isinstance(collator, RowCollator)
        return make_micro_batches(
            rows,
            Shares(self.plan, self.state.global_step, self.rank, self.ranks),
            replace(collator, multiple=self.budget.length_multiple(args.torch_compile)),
            workers=args.dataloader_num_workers,
            pinned=args.dataloader_pin_memory and args.device.type == "cuda",
        )

    def _begin(self) -> nn.Module:
        """Prepare model, optimizer and schedule, and restore the checkpoint to continue from."""
        self.state = TrainerState(max_steps=len(self.plan), num_train_epochs=int(self.plan.epoch[-1]) + 1)
        self.state.is_local_process_zero = self.is_local_process_zero()
        self.state.is_world_process_zero = self.is_world_process_zero()
        in_tokens = self.budget.schedule_in == "tokens"
        with warmup_in_tokens(self.args, self.plan.tokens_before) if in_tokens else nullcontext():
            length = int(self.plan.tokens.sum()) if in_tokens else len(self.plan)
            model, _ = self._prepare_for_training(length, None, None)
        if in_tokens:
            follow_tokens(self.lr_scheduler, self.plan.tokens_before)
        self.memory, self.metrics = MemoryUsage(self.args.device), StepMetrics(self.args.device)
        set_seed(self.args.seed + self.rank)  # each process draws its own dropout
        if self.resume_state:
            self._restore(self.resume_state)
        self.control = self.callback_handler.on_train_begin(self.args, self.state, self.control)
        model.train()
        self.optimizer.zero_grad()
        return model

    def _agree(self, *, must_stop: bool, is_due: bool) -> tuple[bool, bool]:
        """Return whether any process must stop, and whether any decided that a checkpoint is due."""
        if self.ranks == 1:
            return must_stop, is_due
        flags: Any = self.accelerator.reduce(torch.tensor([must_stop, is_due], device=self.args.device).int(), "sum")
        any_must_stop, any_is_due = flags.tolist()
        return bool(any_must_stop), bool(any_is_due)

    def _is_interrupted(self) -> bool:
        """Return whether the step is followed by a log line or an evaluation, so that its time must be complete."""
        is_last = self.state.global_step == len(self.plan)
        return is_last or self._is_due(self.budget.log_interval) or self._is_due(self.budget.eval_interval)

    def _is_due(self, interval: int) -> bool:
        return interval > 0 and self.state.global_step % interval == 0

    def _end(self) -> TrainOutput:
        self.checkpoint.wait()
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
        self.is_in_train = False
        return TrainOutput(self.state.global_step, float("nan"), {})

    def _write_step_checkpoint(self) -> None:
        """Write a checkpoint of this step. The keys are part of the format of dynamic_checkpoint.pt."""
        rank = {"random": random_state(), "tally": self.metrics.state()}
        state = {
            "step": self.state.global_step,
            "tokens": self.state.num_input_tokens_seen,
            "schedule": self.lr_scheduler.state_dict(),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
            "most_slots": self.accumulation.max_slots,
            "best": self.best.state(),
            "log_bytes": metrics_size(self.checkpoint.path.parent),
        }
        before = self.checkpoint.seconds
        self.checkpoint.save(self.accelerator, self._unwrapped, self.optimizer, state, rank)
        self.schedule.written(self.trained_seconds, self.checkpoint.seconds)
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, TrainingTime):
                callback.exclude(self.checkpoint.seconds - before)
        self._best_step_saved = self.best.step

    def _restore(self, state: dict[str, Any]) -> None:
        """Continue from the content of a checkpoint."""
        new = NewSettings(self.optimizer, self.lr_scheduler, self.changed)
        self.checkpoint.restore(self._unwrapped, self.optimizer, state)
        self.lr_scheduler.load_state_dict(state["schedule"])
        new.apply()
        update_learning_rate(self.lr_scheduler)
        if state["scaler"] and self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.state.global_step, self.state.num_input_tokens_seen = state["step"], state["tokens"]
        self.accumulation.max_slots = state["most_slots"]
        if self.rank < len(state["ranks"]):  # the number of processes may have changed
            set_random_state(state["ranks"][self.rank]["random"])
            self.metrics.restore(state["ranks"][self.rank]["tally"])
        self.resume_state = None

    def _best_steps_in_checkpoints(self) -> set[int]:
        self.checkpoint.wait()  # the earlier one is replaced only now
        return {self._best_step_saved}

    def load_weights(self, checkpoint: Path) -> None:
        """Load the trained weights of a run that had finished training."""
        assert self.resume_state
        self.state.global_step = self.resume_state["step"]
        self.state.epoch = self.plan.progress(min(self.resume_state["step"], len(self.plan)) - 1)
        load_weights(self._unwrapped, self.resume_state["weights"])
        self._end_with_best()
