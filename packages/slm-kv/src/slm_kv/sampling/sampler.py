"""Sampling the next token of one sequence by its own settings, history and seed.

Shapes: V vocabulary, K tokens that are kept.
"""

from __future__ import annotations

import math
import random
import secrets
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from slm_kv.constraints.token_constraint import TokenConstraint
from slm_kv.errors import GrammarError
from slm_kv.sampling.device_sampling import SampledRow
from slm_kv.sampling.logit_bias import LogitBias
from slm_kv.sampling.logprobs import SampledToken, with_logprobs
from slm_kv.sampling.params import SamplingParams
from slm_kv.sampling.penalties import Penalties
from slm_kv.sampling.scores import likeliest, valid_scores
from slm_kv.sampling.top_k_top_p import truncate


class TokenSampler:
    """Samples one sequence's tokens with the distribution of Hugging Face's logits processors.

    They are applied in its order: penalties, temperature, top_k, top_p, min_p; ``logit_bias`` comes first. Each token
    takes one random number from the sequence's own generator, so that the text depends only on the logits and the seed.

    Args:
        params: The request's settings.
        prompt_ids: The prompt, which the repetition penalty covers.
        vocab_size: V.
        end_ids: Tokens that end the text; they are not sampled before ``min_new_tokens``.
        constraint: The state of the sequence in its grammar; None allows all tokens.
    """

    def __init__(
        self,
        params: SamplingParams,
        prompt_ids: Sequence[int],
        vocab_size: int,
        end_ids: Iterable[int] = (),
        constraint: TokenConstraint | None = None,
    ) -> None:
        self.params, self._constraint = params, constraint
        self._tokens_before_end = params.min_new_tokens
        self._end_ids = torch.tensor(sorted(token for token in end_ids if token < vocab_size), dtype=torch.long)
        self.seed = secrets.randbits(63) if params.seed is None else params.seed
        self._random = random.Random(self.seed)
        self._penalties = Penalties(params, prompt_ids, vocab_size) if params.penalised else None
        self._bias = LogitBias(params.logit_bias) if params.logit_bias else None
        self._numbers: deque[float] = deque()
        self._depends_on_text = bool(params.penalised or params.logit_bias or constraint)

    @property
    def complete(self) -> bool:
        """Whether the text is finished because its grammar allows no further token."""
        return self._constraint is not None and self._constraint.complete

    @property
    def is_plain(self) -> bool:
        """Whether the next tokens depend on nothing but logits, settings and numbers."""
        return not (self._depends_on_text or self._tokens_before_end)

    def next_rows(self, count: int) -> list[SampledRow]:
        """How the next ``count`` tokens are sampled, if ``is_plain``."""
        if self.params.greedy:
            return [SampledRow(self.params, 0.0)] * count
        while len(self._numbers) < count:
            self._numbers.append(self._random.random())
        return [SampledRow(self.params, number) for number in islice(self._numbers, count)]

    def take(self, token: SampledToken) -> SampledToken:
        """Add a token to the history that was sampled elsewhere as the first of ``next_rows``, and return it."""
        if not self.params.greedy:
            self._next_number()
        self.record(token.token_id)
        return token

    def sample(self, logits_V: Tensor) -> SampledToken:
        """Sample the next token and add it to the history.

        Raises:
            InvalidLogits: the logits contain NaN, or the largest is infinite.
            GrammarError: no token may come next.
        """
        params = self.params
        if params.greedy and self.is_plain:
            token = likeliest(logits_V)  # needs no float64 copy of the logits
        else:
            scores_V = self._scores(logits_V)
            token = int(scores_V.numpy().argmax()) if params.greedy else self._draw(scores_V)
        self.record(token)
        return with_logprobs(logits_V, token, params.logprobs)

    def record(self, token_id: int) -> None:
        """Add ``token_id`` to the history: penalties count it from now on, and the grammar continues after it."""
        self._tokens_before_end = max(self._tokens_before_end - 1, 0)
        if self._penalties:
            self._penalties.count(token_id)
        if self._constraint:
            self._constraint.advance(token_id)

    def distribution(self, logits_V: Tensor) -> Tensor:
        """The probabilities [V], in float64, of the next token under the settings and the history so far."""
        scores_V = self._scores(logits_V)
        ids_K, weights_K = truncate(scores_V, self.params)
        probabilities_K = weights_K / weights_K.sum()
        return probabilities_K if ids_K is None else torch.zeros_like(scores_V).index_copy_(0, ids_K, probabilities_K)

    def _scores(self, logits_V: Tensor) -> Tensor:
        scores_V = valid_scores(logits_V)
        if self._bias:
            self._bias.add_(scores_V)
        if self._penalties:
            self._penalties.apply_(scores_V)
        if self._tokens_before_end:
            scores_V[self._end_ids] = -math.inf
        if self._constraint or self._bias:
            self._restrict_(scores_V)
        return scores_V

    def _restrict_(self, scores_V: Tensor) -> None:
        """Ban the tokens that the grammar or ``logit_bias`` excludes, in place."""
        if self._constraint:
            scores_V[len(self._constraint.allowed_V) :] = -math.inf
            np.copyto(scores_V.numpy()[: len(self._constraint.allowed_V)], -np.inf, where=~self._constraint.allowed_V)
        if self._bias:
            self._bias.restrict_(scores_V)
        if scores_V.numpy().max() == -math.inf:
            raise GrammarError(
                "no token may come next: logit_bias, min_new_tokens and the grammar exclude all; change them"
            )

    def _draw(self, scores_V: Tensor) -> int:
        """Sample a token: invert the cumulative distribution, in order of token ids, at one random number."""
        ids_K, weights_K = truncate(scores_V, self.params)
        cumulative_K = weights_K.cumsum(0).numpy()
        target = self._next_number() * cumulative_K[-1]
        index = int(np.searchsorted(cumulative_K, target, side="right"))
        return index if ids_K is None else int(ids_K[index])

    def _next_number(self) -> float:
        return self._numbers.popleft() if self._numbers else self._random.random()
