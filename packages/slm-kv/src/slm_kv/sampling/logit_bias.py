"""OpenAI's ``logit_bias``: numbers added to the logits of single tokens.

Shapes: V vocabulary, B tokens with a bias.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

BAN, FORCE = -100, 100


class LogitBias:
    """Numbers that are added to the logits of some tokens. -100 bans a token; 100 bans all others."""

    def __init__(self, pairs: Sequence[tuple[int, float]]) -> None:
        self._ids_B = torch.tensor([id for id, _ in pairs], dtype=torch.long)
        self._bias_B = torch.tensor([bias for _, bias in pairs], dtype=torch.float64)
        self._banned = torch.tensor([id for id, bias in pairs if bias <= BAN], dtype=torch.long)
        self._forced = torch.tensor([id for id, bias in pairs if bias >= FORCE], dtype=torch.long)

    def add_(self, scores_V: Tensor) -> None:
        """Add the numbers, in place."""
        scores_V[self._ids_B] += self._bias_B

    def restrict_(self, scores_V: Tensor) -> None:
        """Ban tokens, in place; called last. Forced tokens that something else bans force nothing."""
        scores_V[self._banned] = -math.inf
        forced = scores_V[self._forced]
        if bool((forced > -math.inf).any()):
            scores_V.fill_(-math.inf)
            scores_V[self._forced] = forced
