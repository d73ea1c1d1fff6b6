"""Verifying that a model is a causal language model: no logits depend on later tokens."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from slm_train.hardware.out_of_memory import is_out_of_memory
from slm_train.verification.probe import (
    ATTEMPTS,
    MAX_TOKENS,
    Probe,
    class_name,
    first_line,
    make_probe,
    probing,
    relative_difference,
)
from slm_train.verification.rounding import least_rounding, measure_rounding


def find_causality_fault(model: PreTrainedModel, *, autocast: torch.dtype | None = None) -> str | None:
    """Change the later half of a random document and compare the logits of the earlier half.

    The model is left as it was, and so are the random generators.

    Args:
        model: A model, or a PeftModel, on its device.
        autocast: The type of autocast in training; the model is run both with and without it.

    Returns:
        None, or a sentence without a full stop that says how earlier logits change.
    """
    with probing(model):
        for dtype in dict.fromkeys((None, autocast)):
            if fault := _repeated_fault(model, dtype):
                return fault
    return None


def _repeated_fault(model: PreTrainedModel, dtype: torch.dtype | None) -> str | None:
    name, difference = class_name(model), None
    for attempt in range(ATTEMPTS):
        try:
            difference = _excess(make_probe(model, dtype, attempt))
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return f"{name} does not compute logits from input_ids alone ({first_line(error)})"
        if difference is None:
            return None
    return (
        f"{name} is not a causal language model: earlier logits change with later tokens (by {difference:.2g} of "
        "their size)"
    )


def _excess(probe: Probe) -> float | None:
    """Return the change of earlier logits if rounding does not explain it."""
    earlier, later, other = (probe.document(MAX_TOKENS // 2) for _ in range(3))
    logits, changed = (probe.logits(torch.cat([earlier, end]))[0][: len(earlier)] for end in (later, other))
    moved = relative_difference(changed, logits)
    is_explained = least_rounding(probe).explains(moved) or measure_rounding(probe, MAX_TOKENS).explains(moved)
    return None if is_explained else moved
