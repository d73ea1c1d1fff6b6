"""``slm-lab eval --prompts``: greedy answers of each model, with exact match and F1."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from slm_lab.errors import LabError
from slm_lab.evaluation.answer_metrics import exact_match, f1
from slm_lab.evaluation.chats import PromptEncoder
from slm_lab.evaluation.engine_requests import write_texts
from slm_lab.evaluation.evaluator import Job
from slm_lab.evaluation.loading import OpenModel
from slm_lab.evaluation.prompt_file import Prompt, PromptFile
from slm_lab.evaluation.result_file import TaskRecord
from slm_lab.runs.evaluations import Score

if TYPE_CHECKING:
    from slm_kv import SamplingParams

METRICS = {"exact_match": exact_match, "f1": f1}


def prompts_task(file: PromptFile) -> str:
    """The name of the results of a file's prompts."""
    return f"prompts {file.name}"


def prompts_job(file: PromptFile, max_new_tokens: int) -> Job:
    """The answers to the prompts of a file as something to compute of each model."""
    name = prompts_task(file)

    def run(model: OpenModel, settings: dict[str, Any]) -> TaskRecord:
        start = time.perf_counter()
        answers = answer(model, file.prompts, max_new_tokens)
        details = {"seconds": round(time.perf_counter() - start, 2), "answers": answers}
        scores = score_answers(name, file.prompts, answers)
        scored = sum(bool(prompt.expected) for prompt in file.prompts)
        return TaskRecord(name, settings, scores, scored, details)

    return Job(name, {"prompts": file.digest, "max_new_tokens": max_new_tokens}, run)


def answer(model: OpenModel, prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
    """Return the model's greedy answer to each prompt.

    Raises:
        LabError: A prompt is too long, or the chat template rejects it.
    """
    encoder = PromptEncoder(model.tokenizer)
    requests: list[tuple[Sequence[int], SamplingParams]] = []
    for number, prompt in enumerate(prompts, 1):
        try:
            encoded = encoder.encode(prompt)
        except LabError as error:
            raise LabError(f"prompt {number}: {error}") from error
        if len(encoded.ids) + max_new_tokens > model.max_length:
            raise LabError(
                f"prompt {number} has {len(encoded.ids)} tokens, and with --max_new_tokens {max_new_tokens} exceeds "
                f"the context of {model.max_length} tokens; shorten it"
            )
        requests.append((encoded.ids, _params(encoded.stop, max_new_tokens)))
    return [handle.text.strip() for handle in write_texts(model, requests)]


def _params(stop: tuple[str, ...], max_new_tokens: int) -> SamplingParams:
    from slm_kv import SamplingParams

    return SamplingParams(max_new_tokens=max_new_tokens, temperature=0, stop=stop)


def score_answers(task: str, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[Score]:
    """The mean of each metric over the prompts with an expected answer, with its standard error."""
    pairs = [(text, prompt.expected) for prompt, text in zip(prompts, answers, strict=True) if prompt.expected]
    if not pairs:
        return []
    scores = []
    for metric, compute in METRICS.items():
        values = [compute(text, expected) for text, expected in pairs]
        stderr = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
        scores.append(Score(task, metric, statistics.fmean(values), stderr, higher_is_better=True))
    return scores
