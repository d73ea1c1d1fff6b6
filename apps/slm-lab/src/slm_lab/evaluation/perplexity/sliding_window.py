"""Sliding-window perplexity, https://huggingface.co/docs/transformers/perplexity.

A window has ``max_length`` tokens and moves on by ``stride``. The tokens that are new in it are predicted from all
tokens before them in the window, so each token of the text but the first is predicted once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slm_lab.errors import LabError
from slm_lab.evaluation.engine_requests import score_pairs
from slm_lab.evaluation.evaluator import Job
from slm_lab.evaluation.loading import OpenModel
from slm_lab.evaluation.result_file import TaskRecord
from slm_lab.runs.evaluations import Score

WINDOWS_AT_ONCE = 64  # whose scores are kept as objects


@dataclass(frozen=True)
class Text:
    """A text to be predicted.

    Attributes:
        name: Its name in results.
        content: The text.
        digest: Of its content.
    """

    name: str
    content: str
    digest: str


def windows(tokens: Sequence[int], max_length: int, stride: int) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    """Yield pairs of a context and the tokens to be predicted after it, which together are a window of the text.

    With ``stride`` equal to ``max_length`` windows do not overlap. Then the first token of a window is predicted from
    the last one of the window before, where the procedure of transformers' documentation leaves it out.

    Args:
        tokens: The text.
        max_length: Tokens in a window.
        stride: New tokens in each window but the first, at most ``max_length``.
    """
    predicted = 1  # the first token has nothing before it
    for begin in range(0, len(tokens), stride):
        end = min(begin + max_length, len(tokens))
        first = min(begin, predicted - 1)
        if end > predicted:
            yield tokens[first:predicted], tokens[predicted:end]
        predicted = max(predicted, end)
        if end == len(tokens):
            return


def perplexity_job(text: Text, stride: int) -> Job:
    """The perplexity of a text as something to compute of each model."""
    settings = {"stride": stride, "text": text.digest}

    def run(model: OpenModel, settings: dict[str, Any]) -> TaskRecord:
        start = time.perf_counter()
        logprob, tokens = total_logprob(model, text.content, stride)
        details = {"seconds": round(time.perf_counter() - start, 2), "window": model.max_length}
        return TaskRecord(f"perplexity {text.name}", settings, scores(text, logprob, tokens), tokens, details)

    return Job(f"perplexity {text.name}", settings, run)


def total_logprob(model: OpenModel, text: str, stride: int) -> tuple[float, int]:
    """Return the log-probability of a text and the number of predicted tokens.

    Raises:
        LabError: The stride exceeds the window, or the text is too short.
    """
    if stride > model.max_length:
        raise LabError(f"--stride {stride} exceeds the window of {model.max_length} tokens; give at most that")
    tokens = model.tokenizer(text, verbose=False)["input_ids"]
    if len(tokens) < 2:
        raise LabError(f"the text has {len(tokens)} tokens; give one of at least 2")
    pairs = [*windows(tokens, model.max_length, stride)]
    total: list[float] = []
    for first in range(0, len(pairs), WINDOWS_AT_ONCE):
        for continuation in score_pairs(model, pairs[first : first + WINDOWS_AT_ONCE]):
            total += [score.logprob for score in continuation]
    return math.fsum(total), len(total)


def scores(text: Text, logprob: float, tokens: int) -> list[Score]:
    """The perplexities per token and per word, and bits per byte."""
    name, words, size = f"perplexity {text.name}", len(text.content.split()), len(text.content.encode())
    values: Mapping[str, float] = {
        "token perplexity": math.exp(-logprob / tokens),
        "word perplexity": math.exp(-logprob / words),
        "bits per byte": -logprob / math.log(2) / size,
    }
    return [Score(name, metric, value, higher_is_better=False) for metric, value in values.items()]
