"""The token-budget loop: plan, micro-batches, step, checkpoint.

A step is as many micro-batches of like-length rows as its budget of predicted tokens needs. Each adds the sum of its
losses over all predicted tokens of the step, on every process, to the gradient, which is then that of one big batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor, nn
from transformers import set_seed
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import TrainOutput

from slm_data import BudgetPlan, RowCollator, RowDataset
from slm_train.accounting import Memory
from slm_train.accumulation import Accumulation
from slm_train.arguments import BudgetOptions
from slm_train.best import Best
from slm_train.micro_batches import Batch, Shares, micro_batches
from slm_train.run_record import metrics_size
from slm_train.schedule import by_tokens, rate_of_now, warmup_in_tokens
from slm_train.step_checkpoint import StepCheckpoint, load_weights, random_state, set_random_state
from slm_train.tally import Seen, Tally
from slm_train.trainer import SlmTrainer


class BudgetTrainer(SlmTrainer):
    """An SlmTrainer whose loop follows a BudgetPlan. ``state``: what an earlier run left, to go on from."""

    optimizer: Any
    lr_scheduler: Any

    def __init__(
        self,
        *,
        plan: BudgetPlan,
        budget: BudgetOptions,
        checkpoint: StepCheckpoint,
        state: dict[str, Any] | None,
        say: Callable[[str], None],
        **settings: Any,
    ):
        super().__init__(**settings)
        self.plan, self.budget, self.checkpoint, self.resumed = plan, budget, checkpoint, state
        self.rank, self.ranks = self.accelerator.process_index, self.accelerator.num_processes
        self.best = Best(Path(str(self.args.output_dir)), budget.patience, budget.keep_best)
        self.accumulation = Accumulation(self.accelerator, self._loss, say)

    def _inner_training_loop(self, *_: Any, **__: Any) -> TrainOutput:
        """In place of Hugging Face's: what surrounds it (activation checkpointing, callbacks) stays theirs."""
        model = self._begin()
        batches = self._micro_batches()
        for step in range(self.state.global_step, len(self.plan)):
            self._take(model, step, batches)
            last = step + 1 == len(self.plan)
            if self._due(self.budget.log_interval) or last:
                self.log(self.tally.line(self.accelerator, self.memory))
            if self._due(self.budget.eval_interval):
                self.best.see(self.state.global_step, self.evaluate()["eval_loss"], self._trained_weights)
            stopping = not last and self._stopping()
            if self._due(self.budget.checkpoint_interval) or last or stopping:
                self._keep()
            if stopping:
                break
        return self._end()

    def _take(self, model: nn.Module, step: int, batches: Iterator[Batch]) -> None:
        """One optimizer step."""
        start, rate = time.perf_counter(), self.lr_scheduler.get_last_lr()[0]
        share = self.plan.share(step, self.rank, self.ranks)
        held = list(islice(batches, len(share)))
        predicted, slots = int(self.plan.tokens[step]), sum(batch["input_ids"].numel() for batch in held)
        loss = self.accumulation(model, held, predicted, self.plan.most_in_a_share(step, self.ranks))
        norm = self._clip(model)
        self.control = self.callback_handler.on_pre_optimizer_step(self.args, self.state, self.control)
        self.optimizer.step()
        self.lr_scheduler.step()
        self.optimizer.zero_grad()
        self.state.global_step = step + 1
        self.state.epoch = self.plan.progress(step)
        self.state.num_input_tokens_seen += predicted
        self.trained_tokens += predicted
        seen = Seen(loss, predicted, self.plan.real_tokens(share), slots, time.perf_counter() - start)
        self.tally.add(seen, tokens=self.state.num_input_tokens_seen, norm=norm, rate=rate)
        self.control = self.callback_handler.on_step_end(self.args, self.state, self.control)

    def _loss(self, model: nn.Module, inputs: Batch, own: int, tokens: int) -> Tensor:
        """The part of a step's mean loss, over its ``tokens``, that a micro-batch of ``own`` ones has."""
        if self.model_accepts_loss_kwargs:  # a sum, divided by what it is told, times the processes
            loss: Tensor = self.compute_loss(model, inputs, num_items_in_batch=torch.tensor(tokens))
        else:  # a mean over the micro-batch
            loss = self.compute_loss(model, inputs) * (own * self.ranks / tokens)
        return loss

    def _clip(self, model: nn.Module) -> Tensor | None:
        """The norm of the step's gradient, before it is clipped."""
        if self.args.max_grad_norm and self.args.max_grad_norm > 0:
            norm: Tensor | None = self.accelerator.clip_grad_norm_(model.parameters(), self.args.max_grad_norm)
            return norm
        if self.accelerator.distributed_type == DistributedType.FSDP:
            return None  # each process holds a part of each gradient
        self.accelerator.unscale_gradients()
        return nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])

    def _micro_batches(self) -> Iterator[Batch]:
        rows, collator, args = self.train_dataset, self.data_collator, self.args
        assert isinstance(rows, RowDataset)
        assert isinstance(collator, RowCollator)
        return micro_batches(
            rows,
            Shares(self.plan, self.state.global_step, self.rank, self.ranks),
            replace(collator, multiple=self.budget.multiple(args.torch_compile)),
            workers=args.dataloader_num_workers,
            pinned=args.dataloader_pin_memory and args.device.type == "cuda",
        )

    def _begin(self) -> nn.Module:
        self.state = TrainerState(max_steps=len(self.plan), num_train_epochs=int(self.plan.epoch[-1]) + 1)
        self.state.is_local_process_zero = self.is_local_process_zero()
        self.state.is_world_process_zero = self.is_world_process_zero()
        in_tokens = self.budget.schedule_in == "tokens"
        with warmup_in_tokens(self.args, self.plan.tokens_before) if in_tokens else nullcontext():
            length = int(self.plan.tokens.sum()) if in_tokens else len(self.plan)
            model, _ = self._prepare_for_training(length, None, None)
        if in_tokens:
            by_tokens(self.lr_scheduler, self.plan.tokens_before)
        self.memory, self.tally = Memory(self.args.device), Tally(self.args.device)
        set_seed(self.args.seed + self.rank)  # processes drop other activations
        if self.resumed:
            self._go_on_from(self.resumed)
        self.control = self.callback_handler.on_train_begin(self.args, self.state, self.control)
        model.train()
        self.optimizer.zero_grad()
        return model

    def _stopping(self) -> bool:
        """Asked for by a signal that any process received, or by patience."""
        asked = self.control.should_training_stop
        if self.ranks > 1:
            if asked:
                self.accelerator.set_trigger()
            asked = self.accelerator.check_trigger()
        return asked or self.best.exhausted

    def _due(self, interval: int) -> bool:
        return interval > 0 and self.state.global_step % interval == 0

    def _end(self) -> TrainOutput:
        self.checkpoint.wait()
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
        if weights := self.best.weights():
            load_weights(self._held, weights)
            self.last_evaluation = None
        self.is_in_train = False
        return TrainOutput(self.state.global_step, float("nan"), {})

    def _keep(self) -> None:
        """A checkpoint of this step."""
        rank = {"random": random_state(), "tally": self.tally.state()}
        state = {
            "step": self.state.global_step,
            "tokens": self.state.num_input_tokens_seen,
            "schedule": self.lr_scheduler.state_dict(),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
            "most_slots": self.accumulation.most_slots,
            "best": self.best.state(),
            "log_bytes": metrics_size(self.checkpoint.path.parent),
        }
        self.checkpoint.save(self.accelerator, self._held, self.optimizer, state, rank)

    def _go_on_from(self, state: dict[str, Any]) -> None:
        self.checkpoint.restore(self.accelerator, self._held, self.optimizer, state)
        self.lr_scheduler.load_state_dict(state["schedule"])
        rate_of_now(self.lr_scheduler)
        if state["scaler"] and self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.state.global_step, self.state.num_input_tokens_seen = state["step"], state["tokens"]
        self.accumulation.most_slots = state["most_slots"]
        self.best.restore(state["best"])
        if self.rank < len(state["ranks"]):  # the number of processes may have changed
            set_random_state(state["ranks"][self.rank]["random"])
            self.tally.restore(state["ranks"][self.rank]["tally"])
        self.resumed = None

    def _trained_weights(self) -> dict[str, Tensor]:
        return self.checkpoint.weights(self.accelerator, self._held)

    def load_weights(self, checkpoint: Path) -> None:
        """The trained weights of a run that had come to its end."""
        assert self.resumed
        self.state.global_step = self.resumed["step"]
        self.state.epoch = self.plan.progress(min(self.resumed["step"], len(self.plan)) - 1)
        self.best.restore(self.resumed["best"])
        load_weights(self._held, self.best.weights() or self.resumed["weights"])

    @property
    def _held(self) -> Any:
        """The model whose parameters have their own names: under DDP and compilation not the one that is called."""
        return self.model
