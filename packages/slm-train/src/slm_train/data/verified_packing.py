"""Verifying the loaded model before its rows are final: causality, and packing, which is replaced if it is not safe."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import PreTrainedModel, TrainingArguments
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from slm_train.arguments import Arguments
from slm_train.data.rows import PrintLine
from slm_train.errors import TrainError
from slm_train.model.base_model import CAUSAL_REMEDY
from slm_train.verification.batches import find_batch_fault
from slm_train.verification.causality import find_causality_fault
from slm_train.verification.packing import find_packing_fault


def verify_packing(
    arguments: Arguments, model: PreTrainedModel, block_size: int, print_line: PrintLine
) -> tuple[Arguments, str | None]:
    """Verify that ``model`` is causal, and that it keeps packed documents apart if they are to be packed.

    All processes come to the same result.

    Returns:
        The options of the run, with ``--packing none`` if packing is not safe, and the reason for that or None.

    Raises:
        TrainError: For a model that is not causal, for rows that depend on others of their batch, or for a packing that
            the user requires and that is not safe.
    """
    is_packed, autocast = arguments.rows.packing == "best_fit", _autocast_dtype(arguments.training)
    if is_deepspeed_zero3_enabled():  # the model cannot be run before its engine exists
        fault = "packing cannot be verified on weights sharded by DeepSpeed ZeRO-3" if is_packed else None
        return _replace_packing(arguments, fault, print_line)
    if fault := _of_any_process(find_causality_fault(model, autocast=autocast)):
        raise TrainError(f"{fault}; {CAUSAL_REMEDY}{_decoder_hint(model)}")
    if fault := _of_any_process(find_batch_fault(model, block_size)):
        raise TrainError(fault)
    if not is_packed:
        return arguments, None
    fault = _of_any_process(find_packing_fault(model, block_size, autocast=autocast))
    return _replace_packing(arguments, fault, print_line)


def _replace_packing(arguments: Arguments, fault: str | None, print_line: PrintLine) -> tuple[Arguments, str | None]:
    if fault and "packing" in arguments.explicit_flags:
        raise TrainError(f"--packing best_fit: {fault}; give --packing none")
    if not fault:
        return arguments, None
    print_line(f"{fault}; using --packing none")
    return arguments.without_packing(), fault


def packing_of_resumed_run(arguments: Arguments, record: dict[str, Any] | None, print_line: PrintLine) -> Arguments:
    """Return the options with the packing that the resumed run chose when it started, unless the user gave one."""
    reason = _recorded_reason(record)
    if not reason or "packing" in arguments.explicit_flags:
        return arguments
    print_line(f"{reason}; continuing with --packing none")
    return arguments.without_packing()


def packing_record(arguments: Arguments, reason: str | None, resumed: dict[str, Any] | None) -> dict[str, Any]:
    """Return the entry of run.json: the packing, and why it is not the default one.

    Args:
        arguments: The options of the run.
        reason: The reason that ``verify_packing`` returned.
        resumed: The run.json of the run that is resumed.
    """
    if "packing" not in arguments.explicit_flags:
        reason = reason or _recorded_reason(resumed)
    return {"used": arguments.rows.packing, "reason": reason}


def _recorded_reason(record: dict[str, Any] | None) -> str | None:
    reason: str | None = (record or {}).get("packing", {}).get("reason")
    return reason


def _autocast_dtype(training: TrainingArguments) -> torch.dtype | None:
    if training.bf16:
        return torch.bfloat16
    return torch.float16 if training.fp16 else None


def _of_any_process(fault: str | None) -> str | None:
    """Return the fault that the first of all processes has found: on their devices they may differ."""
    faults: list[str | None] = gather_object([fault])
    return next(filter(None, faults), None)


def _decoder_hint(model: PreTrainedModel) -> str:
    is_decoder = getattr(model.config, "is_decoder", None)
    return ", or one with is_decoder true in its config.json" if is_decoder is False else ""
