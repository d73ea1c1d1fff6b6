"""Sampled tokens with their log-probabilities.

Shapes: V vocabulary, T rows of a prompt, K candidate tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from slm_kv.sampling.scores import indices_at_least, largest, valid_scores


@dataclass(frozen=True)
class SampledToken:
    """A token; if requested, its log-probability and those of the likeliest tokens.

    Log-probabilities are those of the model: before penalties, temperature and truncation.
    """

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


def with_logprobs(logits_V: Tensor, token: int, top: int | None) -> SampledToken:
    """Describe ``token`` with its log-probability and those of the ``top`` likeliest tokens; None adds none."""
    if top is None:
        return SampledToken(token)
    scores_V = valid_scores(logits_V)
    log_total = float(scores_V.logsumexp(0))
    logprob = float(scores_V[token]) - log_total
    if top == 0:
        return SampledToken(token, logprob)
    ids_K = indices_at_least(scores_V, float(largest(scores_V, top)[-1]))
    order = scores_V[ids_K].argsort(descending=True, stable=True)[:top]
    return SampledToken(token, logprob, tuple((int(id), float(scores_V[id]) - log_total) for id in ids_K[order]))


def prompt_logprobs(logits_TV: Tensor, token_ids: Sequence[int], top: int) -> list[SampledToken]:
    """Describe the prompt's tokens from the second on: row i of the logits predicts ``token_ids[i + 1]``.

    Args:
        logits_TV: One row for each token but the last.
        token_ids: T + 1 tokens.
        top: The number of likeliest tokens to report beside each.
    """
    return [with_logprobs(logits_V, token, top) for logits_V, token in zip(logits_TV, token_ids[1:], strict=True)]
