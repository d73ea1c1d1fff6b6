"""slm-train, and after each step a line about which tensors are sharded. A module for ``forked``."""

from __future__ import annotations

import json
import sys
from typing import Any
from unittest.mock import patch

import torch
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from slm_train import cli
from slm_train.trainer_choice import make_trainer


class ShardReport(TrainerCallback):
    """Prints a line of JSON about the tensors of this process after each step."""

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.gradients = [p.grad for p in given["model"].parameters() if p.grad is not None]

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        parameters = list(given["model"].parameters())
        moments = [state["exp_avg"] for state in given["optimizer"].optimizer.state.values()]
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
    def make_reporting_trainer(*arguments: Any) -> Any:
        trainer = make_trainer(*arguments)
        trainer.add_callback(ShardReport())
        return trainer

    with patch("slm_train.flow.make_trainer", make_reporting_trainer):
        return cli.main(sys.argv[1:])
