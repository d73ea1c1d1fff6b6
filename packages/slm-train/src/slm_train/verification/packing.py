"""Verifying that packed documents do not influence each other in a model.

transformers prevents attention between packed documents by their positions, but only in models that build their masks
from positions. Convolutions and recurrent states run across the border of documents in any case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from slm_train.hardware.out_of_memory import is_out_of_memory
from slm_train.verification.probe import (
    ATTEMPTS,
    MAX_TOKENS,
    Probe,
    class_name,
    first_line,
    integers,
    make_probe,
    probing,
    relative_difference,
)
from slm_train.verification.rounding import least_rounding, measure_rounding

# In the names of settings: tokens that a layer looks back or processes together, or the positions before rotary scaling
# (longrope scales a whole row by its longest document).
_REACH_NAMES = ("window", "chunk", "original")
_ENDS = (5, 4)  # tokens of the first and the last of three documents


def find_packing_fault(model: PreTrainedModel, block_size: int, *, autocast: torch.dtype | None = None) -> str | None:
    """Compare random documents packed into one row with each of them alone, and with a changed one before them.

    The model is called as in training, with positions that restart, no attention mask and no cache. It is left as it
    was, and so are the random generators.

    Args:
        model: A causal language model, or a PeftModel, on its device.
        block_size: Tokens in a row. If something in the model reaches less far, such as a sliding window, rows beyond
            its reach are compared as well.
        autocast: The type of autocast in training; both with and without it are compared.

    Returns:
        None, or a sentence without a full stop that says how packed documents differ.
    """
    with probing(model):
        for dtype in dict.fromkeys((None, autocast)):
            for lengths in _layouts(model, block_size):
                if fault := _repeated_fault(model, dtype, lengths):
                    return fault
    return None


def _repeated_fault(model: PreTrainedModel, dtype: torch.dtype | None, lengths: Sequence[int]) -> str | None:
    name, difference = class_name(model), None
    for attempt in range(ATTEMPTS):
        try:
            difference = _excess(make_probe(model, dtype, attempt), lengths)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return f"{name} does not accept packed documents ({first_line(error)})"
        if difference is None:
            return None
    return f"packed documents influence each other in {name} (logits differ by {difference:.2g} of their size)"


def _excess(probe: Probe, lengths: Sequence[int]) -> float | None:
    """Return the largest difference between packed and separate documents if rounding does not explain it."""
    documents = [probe.document(length) for length in lengths]
    packed = probe.packed_logits(documents)
    changed = probe.packed_logits([probe.document(lengths[0]), *documents[1:]])
    moved = max(map(relative_difference, changed[1:], packed[1:]))
    alone = [probe.logits(document)[0] for document in documents]
    differences = [*map(relative_difference, packed, alone)]
    if least_rounding(probe).explains(moved, max(differences)):
        return None
    rounding = measure_rounding(probe, min(MAX_TOKENS, max(lengths)))
    # Nothing precedes the first document: if the model is causal, packing changes it by rounding only.
    rounding = replace(rounding, reshaped=max(rounding.reshaped, differences[0]))
    return None if rounding.explains(moved, max(differences)) else max(moved, *differences)


def _layouts(model: PreTrainedModel, block_size: int) -> list[list[int]]:
    """Return the lengths of documents in each row to compare."""
    settings = model.config.get_text_config().to_dict()
    reaches = [value for name, value in integers(settings) if any(part in name for part in _REACH_NAMES)]
    longest = max((reach for reach in reaches if reach < block_size), default=0)
    rows = sorted({min(tokens, block_size) for tokens in (MAX_TOKENS, longest + MAX_TOKENS)})
    return [_documents_of_row(tokens) for tokens in rows]


def _documents_of_row(tokens: int) -> list[int]:
    """Return the lengths of two or three documents that fill a row."""
    first, last = _ENDS
    if tokens <= first + last:
        return [tokens // 2, tokens - tokens // 2]
    # The longest one in the middle begins inside a chunk, and ends beyond the reach that the row was made for.
    return [first, tokens - first - last, last]
