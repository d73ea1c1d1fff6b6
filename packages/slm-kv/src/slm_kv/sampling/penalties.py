"""Repetition, presence and frequency penalties.

Shapes: V vocabulary, S tokens that occurred.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from slm_kv.sampling.params import LARGEST_FLOAT, SamplingParams


class Penalties:
    """The tokens that occurred in prompt and output, and how often the output has each.

    A step reads and writes the scores of these tokens only, not of the whole vocabulary.
    """

    def __init__(self, params: SamplingParams, prompt_ids: Sequence[int], vocab_size: int) -> None:
        self._params = params
        self._slots = {token: slot for slot, token in enumerate(dict.fromkeys(prompt_ids))}
        # One slot for each token of the vocabulary. Fresh zeros take no memory until they are written to.
        self._ids_V = np.zeros(vocab_size, dtype=np.int64)
        self._counts_V = np.zeros(vocab_size)
        self._ids_V[: len(self._slots)] = list(self._slots)

    def count(self, token_id: int) -> None:
        """Record an output token."""
        slot = self._slots.setdefault(token_id, len(self._slots))
        self._ids_V[slot] = token_id
        self._counts_V[slot] += 1

    def apply_(self, scores_V: Tensor) -> None:
        """Lower the scores of the tokens that occurred, in place: Hugging Face's penalty, then OpenAI's two."""
        params, occurred = self._params, len(self._slots)
        ids_S, counts_S = torch.from_numpy(self._ids_V[:occurred]), torch.from_numpy(self._counts_V[:occurred])
        scores_S, penalty = scores_V[ids_S], params.repetition_penalty
        scores_S = torch.where(scores_S < 0, scores_S * penalty, scores_S / penalty)
        scores_S -= params.presence_penalty * counts_S.sign() + params.frequency_penalty * counts_S
        scores_V[ids_S] = scores_S.clamp_(-LARGEST_FLOAT, LARGEST_FLOAT)  # a tiny penalty would overflow to inf
