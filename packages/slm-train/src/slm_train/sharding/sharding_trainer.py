"""A Trainer whose model can be sharded (``--fsdp``)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import Trainer

from slm_train.sharding.model_sharding import ShardingSettings, shard_model
from slm_train.sharding.whole_tensors import exchange_whole_states, whole_state


class ShardingTrainer(Trainer):
    """A Trainer that can shard its model; it saves and loads the same files as for a whole one."""

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self._exchanging: torch.optim.Optimizer | None = None

    @property
    def is_sharded(self) -> bool:
        """Whether each process has only a part of the weights."""
        return bool(self.args.fsdp)

    def shard(self) -> None:
        """Shard the model if that is requested. What needs the whole model has to come before this."""
        if self.is_sharded:
            model: Any = self.model
            shard_model(model, self.args.device, ShardingSettings.of(self.args))
            # transformers 5.19 then prepares autocast only; it does not wrap the model, nor shard it again.
            self.is_distributed_loading_by_transformers = True

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if self.is_sharded and optimizer is not self._exchanging:
            exchange_whole_states(optimizer, kept=self.args.should_save)
            self._exchanging = optimizer
        return optimizer

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Save them; transformers 5.19 reads the state of the optimizer in the first process only."""
        optimizer: Any = self.optimizer
        if self.is_sharded and not self.args.should_save:
            optimizer.state_dict()  # takes part in gathering it
        super()._save_optimizer_and_scheduler(output_dir)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the whole model in the first process. Every process must call this for a sharded one."""
        if not self.is_sharded:
            super().save_model(output_dir, _internal_call)
            return
        model: Any = self.model
        state = whole_state(model, kept=self.args.should_save)
        if self.args.should_save:
            self._save(output_dir, state_dict=state)
