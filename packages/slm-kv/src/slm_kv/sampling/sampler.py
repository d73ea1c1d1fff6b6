"""From logits to the next token of one sequence: by its own settings, its own history and its own seed.

Shapes: V vocabulary, N rows, T rows of a prompt, K tokens that are kept, S tokens that were seen.
"""

from __future__ import annotations

import math
import random
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from slm_kv.errors import KVError
from slm_kv.sampling.params import LARGEST, SamplingParams

FIRST_LOOK = 2048  # likeliest tokens that top_p looks at before it sorts them all


class BadLogits(KVError):
    """The model gave no usable scores."""


@dataclass(frozen=True)
class Choice:
    """A token; where asked for, its log-probability before any setting was applied, and the likeliest tokens'."""

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class TokenSampler:
    """Chooses one sequence's tokens as Hugging Face's processors do, in their order: penalties, temperature, top_k,
    top_p, min_p. Each draw takes one number of ``seed``'s, so that the text depends on the logits and the seed alone.
    """

    def __init__(
        self, params: SamplingParams, prompt_ids: Sequence[int], vocab_size: int, ends: Iterable[int] = ()
    ) -> None:
        self.params = params
        self._early = params.min_new_tokens  # tokens to come before one of ``ends`` may
        self._ends = torch.tensor(sorted(one for one in ends if one < vocab_size), dtype=torch.long)
        self.seed = secrets.randbits(63) if params.seed is None else params.seed
        self._random = random.Random(self.seed)
        self._penalties = _Penalties(params, prompt_ids, vocab_size) if params.penalised else None

    def choose(self, logits_V: Tensor) -> Choice:
        """The next token, noted as such. Raises BadLogits for NaN or infinite logits."""
        params = self.params
        if params.greedy and not params.penalised and not self._early:
            token = likeliest(logits_V)
        else:
            scores_V = self._scores(logits_V)
            token = int(scores_V.numpy().argmax()) if params.greedy else self._draw(scores_V)
        self.note(token)
        return _described(logits_V, token, self.params.logprobs)

    def note(self, token_id: int) -> None:
        """The sequence goes on with ``token_id``: penalties count it from here on."""
        self._early = max(self._early - 1, 0)
        if self._penalties:
            self._penalties.count(token_id)

    def distribution(self, logits_V: Tensor) -> Tensor:
        """The probability of each token, [V], float64, by the settings and the history so far."""
        scores_V = self._scores(logits_V)
        ids_K, weights_K = self._kept(scores_V)
        probabilities_K = weights_K / weights_K.sum()
        return probabilities_K if ids_K is None else torch.zeros_like(scores_V).index_copy_(0, ids_K, probabilities_K)

    def _scores(self, logits_V: Tensor) -> Tensor:
        scores_V = _checked(logits_V)
        if self._penalties:
            self._penalties.apply_(scores_V)
        if self._early:
            scores_V[self._ends] = -math.inf
        return scores_V

    def _draw(self, scores_V: Tensor) -> int:
        """By the inverse of the cumulative distribution, tokens in order of their ids."""
        ids_K, weights_K = self._kept(scores_V)
        cumulative_K = weights_K.cumsum(0).numpy()
        place = self._random.random() * cumulative_K[-1]
        index = int(np.searchsorted(cumulative_K, place, side="right"))
        return index if ids_K is None else int(ids_K[index])

    def _kept(self, scores_V: Tensor) -> tuple[Tensor | None, Tensor]:
        """Ids that top_k, top_p and min_p leave, rising, or None for all; their weights: the likeliest weighs 1."""
        params, ids_K, scores_K = self.params, None, scores_V
        if params.greedy:
            return torch.tensor([int(scores_V.numpy().argmax())]), torch.ones(1, dtype=torch.float64)
        if 0 < params.top_k < len(scores_V):
            ids_K = _at_least(scores_V, float(_largest(scores_V, params.top_k)[-1]))
            scores_K = scores_V.index_select(0, ids_K)
        weights_K = _weights(scores_K, scores_K.numpy().max(), params.temperature)
        if params.top_p < 1:
            ids_K, weights_K = _narrowed(ids_K, weights_K, _nucleus(scores_K, float(weights_K.sum()), params))
        if params.min_p > 0:
            ids_K, weights_K = _narrowed(ids_K, weights_K, _at_least(weights_K, params.min_p))
        return ids_K, weights_K


class _Penalties:
    """The tokens of prompt and output, each once, and how often the output has them. A step touches these alone."""

    def __init__(self, params: SamplingParams, prompt_ids: Sequence[int], vocab_size: int) -> None:
        self._params = params
        self._slots = {token: slot for slot, token in enumerate(dict.fromkeys(prompt_ids))}
        self._ids_V = np.zeros(vocab_size, dtype=np.int64)  # takes no memory before it is written to
        self._counts_V = np.zeros(vocab_size)
        self._ids_V[: len(self._slots)] = list(self._slots)

    def count(self, token_id: int) -> None:
        slot = self._slots.setdefault(token_id, len(self._slots))
        self._ids_V[slot] = token_id
        self._counts_V[slot] += 1

    def apply_(self, scores_V: Tensor) -> None:
        """Lower, in place, the scores of what was seen: Hugging Face's penalty, then OpenAI's two."""
        params, seen = self._params, len(self._slots)
        ids_S, counts_S = torch.from_numpy(self._ids_V[:seen]), torch.from_numpy(self._counts_V[:seen])
        scores_S, penalty = scores_V[ids_S], params.repetition_penalty
        scores_S = torch.where(scores_S < 0, scores_S * penalty, scores_S / penalty)
        scores_S -= params.presence_penalty * counts_S.sign() + params.frequency_penalty * counts_S
        scores_V[ids_S] = scores_S.clamp_(-LARGEST, LARGEST)


def likeliest(logits_V: Tensor) -> int:
    """The token with the largest logit, the lowest id where several have it. Raises BadLogits for an unusable one."""
    scores_V = logits_V.detach().float().cpu().numpy()  # ten times as fast as torch's
    token = int(scores_V.argmax())
    _check(float(scores_V[token]))
    return token


def prompt_logprobs(logits_TV: Tensor, token_ids: Sequence[int], top: int) -> list[Choice]:
    """What the rows say of the tokens that follow them: row i of ``token_ids[i + 1]``. T rows, T + 1 tokens."""
    return [_described(logits_V, token, top) for logits_V, token in zip(logits_TV, token_ids[1:], strict=True)]


def _described(logits_V: Tensor, token: int, top: int | None) -> Choice:
    """The choice of ``token``, with the log-probabilities of the ``top`` likeliest; with none at all for None."""
    if top is None:
        return Choice(token)
    scores_V = _checked(logits_V)
    total = float(scores_V.logsumexp(0))
    logprob = float(scores_V[token]) - total
    if top == 0:
        return Choice(token, logprob)
    ids_K = _at_least(scores_V, float(_largest(scores_V, top)[-1]))
    order = scores_V[ids_K].argsort(descending=True, stable=True)[:top]
    return Choice(token, logprob, tuple((int(id), float(scores_V[id]) - total) for id in ids_K[order]))


def _narrowed(ids_K: Tensor | None, weights_K: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    return places if ids_K is None else ids_K[places], weights_K.index_select(0, places)


def _weights(scores_K: Tensor, top: float, temperature: float) -> Tensor:
    """exp of the scores, of which ``top`` is the largest: no temperature is too low."""
    return (scores_K - top).div_(temperature).exp_()


def _nucleus(scores_K: Tensor, total: float, params: SamplingParams) -> Tensor:
    """Places of the likeliest tokens up to the one that brings their weight to top_p of ``total``, rising.

    Of several with the last one's score the highest ids are kept, as Hugging Face does where its sort is stable.
    """
    size, wanted = len(scores_K), params.top_p * total
    for look in (FIRST_LOOK, size):
        largest = _largest(scores_K, look)
        weights = _weights(largest, float(largest[0]), params.temperature)
        before = weights.cumsum(0) - weights
        if before[-1] >= wanted or look >= size:
            break
    count = max(int(np.searchsorted(before.numpy(), wanted)), 1)
    last = float(largest[count - 1])
    places = _at_least(scores_K, last)
    tied = np.flatnonzero(scores_K.index_select(0, places).numpy() == last)
    return torch.from_numpy(np.delete(places.numpy(), tied[: len(places) - count]))


def _largest(scores_K: Tensor, count: int) -> Tensor:
    """The ``count`` largest, or all there are, falling."""
    first, values = max(len(scores_K) - count, 0), scores_K.numpy()
    values = np.partition(values, first)[first:] if first else values
    return torch.from_numpy(np.sort(values)[::-1].copy())


def _at_least(scores_K: Tensor, bound: float) -> Tensor:
    """Places, rising."""
    return torch.from_numpy(np.flatnonzero(scores_K.numpy() >= bound))


def _checked(logits_V: Tensor) -> Tensor:
    """A copy, float64 on the CPU."""
    scores_V = logits_V.detach().to("cpu", torch.float64, copy=True)
    _check(float(scores_V.numpy().max()))
    return scores_V


def _check(top: float) -> None:
    if not math.isfinite(top):
        gave = "NaN logits" if math.isnan(top) else f"{top} as its largest logit"
        raise BadLogits(f"the model gave {gave}; its weights or its dtype are at fault: try float32")
