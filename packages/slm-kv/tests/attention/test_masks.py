"""Masks are recognised by what they let each query see."""

from typing import Any

import pytest
import torch
from transformers import masking_utils

from slm_kv.attention.masks import MaskRecorder, UnknownMask, sliding_window

POSITIONS = 96
NO_PADDING = torch.zeros(1, dtype=torch.long)


@pytest.mark.parametrize(
    ("mask_function", "window"),
    [
        (masking_utils.causal_mask_function, None),
        (masking_utils.sliding_window_causal_mask_function(24), 24),
        (masking_utils.sliding_window_causal_mask_function(1), 1),
        (masking_utils.sliding_window_causal_mask_function(POSITIONS - 1), POSITIONS - 1),
        (masking_utils.sliding_window_causal_mask_function(POSITIONS), None),
        (masking_utils.chunked_causal_mask_function(POSITIONS, NO_PADDING), None),
    ],
)
def test_causal_masks_and_sliding_windows_are_recognised(mask_function: Any, window: int | None) -> None:
    assert sliding_window(mask_function, POSITIONS) == window


@pytest.mark.parametrize(
    ("mask_function", "kind"),
    [
        (masking_utils.chunked_causal_mask_function(24, NO_PADDING), "attention in chunks"),
        (masking_utils.bidirectional_mask_function, "attention to later tokens"),
        (masking_utils.sliding_window_bidirectional_mask_function(8), "attention to later tokens"),
        (lambda batch, head, query, key: (key <= query) & ((query - key) % 2 == 0), "a mask that is not causal or a"),
        (masking_utils.packed_sequence_mask_function(torch.zeros(1, 1)), "a mask that depends on the tokens"),
    ],
)
def test_other_masks_are_refused_with_their_kind(mask_function: Any, kind: str) -> None:
    with pytest.raises(UnknownMask, match=kind):
        sliding_window(mask_function, POSITIONS)


def test_a_mask_is_recognised_after_slicing_and_a_foreign_one_is_not() -> None:
    recorder = MaskRecorder(POSITIONS)
    windowed = recorder.record(masking_utils.sliding_window_causal_mask_function(5), 1, 1, 2, "cpu")
    causal = recorder.record(masking_utils.causal_mask_function, 1, 1, 2, "cpu")
    assert recorder.window_of(windowed[:, :, :, :1]) == 5
    assert recorder.window_of(causal) is None
    assert recorder.window_of(None) is None
    with pytest.raises(UnknownMask, match="a mask of its own"):
        recorder.window_of(causal + 0)
