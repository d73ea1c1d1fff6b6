"""Scores of given texts: the log-probabilities of a continuation's tokens after a context.

Shapes: R rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence as Ids

import torch
from torch import Tensor

from slm_kv.engine.embeddings import NO_TEXT
from slm_kv.engine.requests import Handle, TokenScore
from slm_kv.engine.sequence import Sequence
from slm_kv.engine.text_stream import TextStream
from slm_kv.pages.block_table import BlockTable
from slm_kv.sampling.sampler import TokenSampler
from slm_kv.sampling.scores import check_finite


class ScoringSequence(Sequence):
    """A context and a continuation in the engine, of which scores are wanted, and no text.

    Only the context is looked up among known prefixes: the logits of its last token and of all but the last token of
    the continuation are needed. The last token itself is not computed.
    """

    def __init__(self, handle: Handle, continuation: Ids[int], prefix_root: bytes) -> None:
        super().__init__(handle, TokenSampler(NO_TEXT, (), 1), TextStream(None), prefix_root)
        self.continuation = list(continuation)
        self.context_length = len(handle.prompt_ids)
        self.token_ids += self.continuation[:-1]

    @property
    def needs_prompt_logits(self) -> bool:
        """Whether scores are missing."""
        return len(self.handle.scores) < len(self.continuation)

    @property
    def reusable_ids(self) -> list[int]:
        """The context."""
        return self.token_ids[: self.context_length]

    @property
    def may_draft(self) -> bool:
        """False: it has no next tokens."""
        return False

    def first_logits_row(self, count: int) -> int:
        """The first of its next ``count`` rows whose logits are needed; ``count`` if none are."""
        return min(max(0, self.context_length - 1 - self.position), count)

    def start(self, table: BlockTable) -> None:
        super().start(table)
        self.handle.reused_tokens = table.tokens
        self.handle.scores.clear()  # it may have been preempted

    def prompt_targets(self, rows: int) -> list[int]:
        """The tokens of the continuation that the logits of its next ``rows`` rows predict."""
        first = len(self.handle.scores)
        return self.continuation[first : first + rows]

    def add_prompt_logprobs(self, logits_RV: Tensor) -> None:
        """Add the scores of the next R tokens of the continuation. Raises InvalidLogits if the model gave NaN."""
        if targets := self.prompt_targets(len(logits_RV)):
            self.add_prompt_numbers(score_numbers(logits_RV, torch.tensor(targets, device=logits_RV.device)).tolist())

    def add_prompt_numbers(self, numbers: Ids[Ids[float]]) -> None:
        """Add scores from their ``score_numbers``. Raises InvalidLogits if the model gave NaN."""
        check_finite(sum(largest for largest, _, _ in numbers))
        self.handle.scores += [TokenScore(logprob, bool(greedy)) for _, logprob, greedy in numbers]


@torch.inference_mode()
def score_numbers(logits_RV: Tensor, tokens_R: Tensor) -> Tensor:
    """Compute the score of each row's token on the device of the logits, in float32. The device is not waited for.

    Returns:
        [R, 3] float32: the largest logit, the token's log-probability, and 1 if no token is likelier, else 0.
    """
    logits_RV = logits_RV.float()
    largest_R, likeliest_R = logits_RV.max(-1)
    logprobs_R = logits_RV.gather(1, tokens_R[:, None])[:, 0] - logits_RV.logsumexp(-1)
    return torch.stack([largest_R, logprobs_R, (likeliest_R == tokens_R).float()], 1)
