"""Fine-tuning of small language models, with token-budget training and exact resume."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slm_train.arguments import Arguments
    from slm_train.checkpoints.step_checkpoint import StepCheckpoint
    from slm_train.cli import main
    from slm_train.command_line.known_flags import read_flags
    from slm_train.command_line.parsing import parse_arguments
    from slm_train.data.budget_plan import make_plan
    from slm_train.data.rows import Rows, make_rows
    from slm_train.errors import TrainError, UsageError
    from slm_train.hardware.device_defaults import device_defaults, multiplies_bfloat16
    from slm_train.hardware.thread_count import fastest_threads
    from slm_train.loop.budget_trainer import BudgetTrainer
    from slm_train.loop.evaluation import evaluate
    from slm_train.loop.micro_batches import MicroBatch, Shares, count_predicted, make_micro_batches
    from slm_train.loop.trainer import SlmTrainer
    from slm_train.losses.fused_loss import FusedLoss
    from slm_train.model.base_model import BaseModel
    from slm_train.model.parameter_counts import count_parameters
    from slm_train.model.single_kernel_gelu import single_kernel_gelu
    from slm_train.model.trainable_count import trainable_parameter_counter
    from slm_train.options.model import MODES
    from slm_train.reports.live_tensors import LiveTensors
    from slm_train.reports.text_samples import continue_prompts
    from slm_train.run_folder.lock_file import active_process
    from slm_train.verification.causality import find_causality_fault
    from slm_train.verification.packing import find_packing_fault

__version__ = "0.11.0"

__all__ = [
    "MODES",
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
    "active_process",
    "continue_prompts",
    "count_parameters",
    "count_predicted",
    "device_defaults",
    "evaluate",
    "fastest_threads",
    "find_causality_fault",
    "find_packing_fault",
    "main",
    "make_micro_batches",
    "make_plan",
    "make_rows",
    "multiplies_bfloat16",
    "parse_arguments",
    "read_flags",
    "single_kernel_gelu",
    "trainable_parameter_counter",
]

# Imported on first use.
_EXPORTS = {
    "MODES": "options.model:MODES",
    "Arguments": "arguments:Arguments",
    "BaseModel": "model.base_model:BaseModel",
    "BudgetTrainer": "loop.budget_trainer:BudgetTrainer",
    "FusedLoss": "losses.fused_loss:FusedLoss",
    "LiveTensors": "reports.live_tensors:LiveTensors",
    "MicroBatch": "loop.micro_batches:MicroBatch",
    "Rows": "data.rows:Rows",
    "Shares": "loop.micro_batches:Shares",
    "SlmTrainer": "loop.trainer:SlmTrainer",
    "StepCheckpoint": "checkpoints.step_checkpoint:StepCheckpoint",
    "TrainError": "errors:TrainError",
    "UsageError": "errors:UsageError",
    "active_process": "run_folder.lock_file:active_process",
    "continue_prompts": "reports.text_samples:continue_prompts",
    "count_parameters": "model.parameter_counts:count_parameters",
    "count_predicted": "loop.micro_batches:count_predicted",
    "device_defaults": "hardware.device_defaults:device_defaults",
    "evaluate": "loop.evaluation:evaluate",
    "fastest_threads": "hardware.thread_count:fastest_threads",
    "find_causality_fault": "verification.causality:find_causality_fault",
    "find_packing_fault": "verification.packing:find_packing_fault",
    "main": "cli:main",
    "make_micro_batches": "loop.micro_batches:make_micro_batches",
    "make_plan": "data.budget_plan:make_plan",
    "make_rows": "data.rows:make_rows",
    "multiplies_bfloat16": "hardware.device_defaults:multiplies_bfloat16",
    "parse_arguments": "command_line.parsing:parse_arguments",
    "read_flags": "command_line.known_flags:read_flags",
    "single_kernel_gelu": "model.single_kernel_gelu:single_kernel_gelu",
    "trainable_parameter_counter": "model.trainable_count:trainable_parameter_counter",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _EXPORTS[name].partition(":")
    return getattr(import_module(f"{__name__}.{module}"), attribute)
