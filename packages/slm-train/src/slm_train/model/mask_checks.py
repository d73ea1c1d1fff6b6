"""Forward passes in training without checks for which the host waits for a GPU.

transformers 5.19 looks in each forward pass whether positions restart within a row, and whether a row has padding that
it should warn about. Both read a number from the device, so the host cannot queue the next micro-batch meanwhile. A run
knows the answers: its rows are packed or not, and their padding needs no mask (``RowCollator``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel, TrainingArguments, masking_utils

_FIND, _WARN = "find_packed_sequence_indices", "warn_if_padding_and_no_attention_mask"


class WithoutMaskChecks:
    """Replaces the checks within ``with checks():``.

    Packed rows always get the mask that keeps documents apart, also a batch in which each row is one document. For
    other rows the first forward pass checks whether the model finds no documents in the positions that it makes itself;
    if it does find some, its check stays.

    Args:
        packed: Whether the rows of the run are packed.
    """

    def __init__(self, packed: bool):
        self.packed = packed
        self._is_first, self._finds_none = True, True

    @contextmanager
    def __call__(self) -> Iterator[None]:
        usual_find, usual_warn = getattr(masking_utils, _FIND), getattr(PreTrainedModel, _WARN)

        def find(position_ids: Tensor) -> Tensor | None:
            if self.packed:
                return document_numbers(position_ids)
            if not self._is_first and self._finds_none:
                return None
            found: Tensor | None = usual_find(position_ids)
            self._finds_none = self._finds_none and found is None
            return found

        setattr(masking_utils, _FIND, find)
        setattr(PreTrainedModel, _WARN, lambda *_: None)
        try:
            yield
        finally:
            setattr(masking_utils, _FIND, usual_find)
            setattr(PreTrainedModel, _WARN, usual_warn)
        self._is_first = False


def without_mask_checks(training: TrainingArguments, packed: bool) -> WithoutMaskChecks | None:
    """Return the replacement for a run, or None where nothing is waited for (a CPU), or the model is compiled."""
    return None if training.device.type == "cpu" or training.torch_compile else WithoutMaskChecks(packed)


def document_numbers(position_ids: Tensor) -> Tensor:
    """Return the number, from 0, of the document of each token in its row, ``[rows, tokens]``, as transformers does."""
    steps = torch.diff(position_ids, prepend=position_ids[:, :1] - 1, dim=-1)
    return (steps != 1).cumsum(-1)
