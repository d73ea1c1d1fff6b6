"""Fine-tuning of small language models, with token-budget training and exact resume."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slm_train.accounting import count_parameters
    from slm_train.arguments import Arguments
    from slm_train.cli import main
    from slm_train.data import Rows, make_plan, make_rows
    from slm_train.device import cpu_multiplies_bf16 as multiplies_bfloat16
    from slm_train.device import device_defaults, fastest_threads
    from slm_train.dynamic import BudgetTrainer
    from slm_train.errors import UserError as TrainError
    from slm_train.estimate import LiveTensors
    from slm_train.evaluation import evaluate
    from slm_train.flags import UsageError
    from slm_train.fused_loss import FusedLoss
    from slm_train.micro_batches import Batch as MicroBatch
    from slm_train.micro_batches import Shares
    from slm_train.micro_batches import micro_batches as make_micro_batches
    from slm_train.micro_batches import predicted as count_predicted
    from slm_train.modes import Base as BaseModel
    from slm_train.modes import one_kernel_gelu as single_kernel_gelu
    from slm_train.parsing import parse as parse_arguments
    from slm_train.samples import continue_prompt
    from slm_train.step_checkpoint import StepCheckpoint
    from slm_train.trainer import SlmTrainer

__version__ = "0.4.1"

__all__ = [
    "Arguments",
    "BaseModel",
    "BudgetTrainer",
    "FusedLoss",
    "LiveTensors",
    "MicroBatch",
    "Rows",
    "Shares",
    "SlmTrainer",
    "StepCheckpoint",
    "TrainError",
    "UsageError",
    "continue_prompt",
    "count_parameters",
    "count_predicted",
    "device_defaults",
    "evaluate",
    "fastest_threads",
    "main",
    "make_micro_batches",
    "make_plan",
    "make_rows",
    "multiplies_bfloat16",
    "parse_arguments",
    "single_kernel_gelu",
]

# Imported on first use.
_EXPORTS = {
    "Arguments": "arguments:Arguments",
    "BaseModel": "modes:Base",
    "BudgetTrainer": "dynamic:BudgetTrainer",
    "FusedLoss": "fused_loss:FusedLoss",
    "LiveTensors": "estimate:LiveTensors",
    "MicroBatch": "micro_batches:Batch",
    "Rows": "data:Rows",
    "Shares": "micro_batches:Shares",
    "SlmTrainer": "trainer:SlmTrainer",
    "StepCheckpoint": "step_checkpoint:StepCheckpoint",
    "TrainError": "errors:UserError",
    "UsageError": "flags:UsageError",
    "continue_prompt": "samples:continue_prompt",
    "count_parameters": "accounting:count_parameters",
    "count_predicted": "micro_batches:predicted",
    "device_defaults": "device:device_defaults",
    "evaluate": "evaluation:evaluate",
    "fastest_threads": "device:fastest_threads",
    "main": "cli:main",
    "make_plan": "data:make_plan",
    "make_rows": "data:make_rows",
    "make_micro_batches": "micro_batches:micro_batches",
    "multiplies_bfloat16": "device:cpu_multiplies_bf16",
    "parse_arguments": "parsing:parse",
    "single_kernel_gelu": "modes:one_kernel_gelu",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _EXPORTS[name].partition(":")
    return getattr(import_module(f"{__name__}.{module}"), attribute)
