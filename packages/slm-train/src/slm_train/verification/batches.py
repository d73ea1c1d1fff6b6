"""Verifying that the rows of a batch do not depend on each other.

Rotary scaling of the kind longrope chooses its frequencies by the longest row of the batch.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from slm_train.verification.probe import (
    ATTEMPTS,
    MAX_TOKENS,
    Probe,
    class_name,
    integers,
    make_probe,
    probing,
    relative_difference,
)
from slm_train.verification.rounding import least_rounding, measure_rounding

_SHORT = 5  # tokens of the short row


def find_batch_fault(model: PreTrainedModel, block_size: int) -> str | None:
    """Compare a short row alone with the same row beside one that is longer than the context before rotary scaling.

    Nothing is computed if rows are not that long. There is no autocast, because models compute rotary frequencies in
    float32 in any case. The model is left as it was.

    Args:
        model: A causal language model, or a PeftModel, on its device.
        block_size: The largest number of tokens in a row.

    Returns:
        None, or a sentence without a full stop with the remedy.
    """
    settings = model.config.get_text_config().to_dict()
    scaled = sorted({value for name, value in integers(settings) if "original" in name and _SHORT < value < block_size})
    with probing(model):
        for context in scaled:
            long = min(block_size, context + MAX_TOKENS)
            if all(_differs(make_probe(model, None, attempt), long) for attempt in range(ATTEMPTS)):
                return (
                    f"in {class_name(model)} a row depends on rows of its batch that are longer than {context} tokens; "
                    f"give a --block_size of at most {context}"
                )
    return None


def _differs(probe: Probe, long: int) -> bool:
    """Whether rounding does not explain how a short row changes beside a long one."""
    short, beside, rest = probe.document(_SHORT), probe.document(long), probe.document(long - _SHORT)
    (alone,) = probe.logits(short)
    together = probe.row_beside(torch.cat([short, rest]), beside)[:_SHORT]
    difference = relative_difference(together, alone)
    if least_rounding(probe).explains(0.0, difference):
        return False
    return not measure_rounding(probe, MAX_TOKENS).explains(0.0, difference)
