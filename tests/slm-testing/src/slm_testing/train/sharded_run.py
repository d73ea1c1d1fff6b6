"""slm-train, and after each step a line about which tensors are sharded. A module for ``forked``."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

import slm_train.flow as flow
from slm_train import cli


class ShardReport(TrainerCallback):
    """Prints a line of JSON about the tensors of this process after each step."""

    def on_pre_optimizer_step(self, *_: object, model: Any, **__: object) -> None:
        self.gradients = [p.grad for p in model.parameters() if p.grad is not None]

    def on_step_end(self, *_: object, model: Any, optimizer: Any, **__: object) -> None:
        parameters = list(model.parameters())
        moments = [state["exp_avg"] for state in optimizer.optimizer.state.values()]
        parts = {"parameters": parameters, "gradients": self.gradients, "moments": moments}
        print(json.dumps({name: sizes(tensors) for name, tensors in parts.items()}), flush=True)


def sizes(tensors: list[torch.Tensor]) -> dict[str, int]:
    """Return how many tensors there are, how many are sharded, and their values: all, and those of this process."""
    local = [t.to_local() if isinstance(t, DTensor) else t for t in tensors]
    return {
        "count": len(tensors),
        "sharded": sum(isinstance(t, DTensor) for t in tensors),
        "values": sum(t.numel() for t in tensors),
        "local": sum(t.numel() for t in local),
    }


def main() -> int:
    make_trainer = flow.make_trainer

    def make_reporting_trainer(*arguments: Any) -> Any:
        trainer = make_trainer(*arguments)
        trainer.add_callback(ShardReport())
        return trainer

    flow.make_trainer = make_reporting_trainer
    return cli.main(sys.argv[1:])
