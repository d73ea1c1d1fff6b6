# /// script
# requires-python = ">=3.11"
# dependencies = ["lm-eval[api]>=0.4.9", "pydantic>=2", "transformers>=5"]
# ///
"""lm-evaluation-harness with its model ``local-completions``: a multiple-choice task and a generation task."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import lm_eval
import requests
from checks import run

NO_SPECIAL_TOKENS = {"add_special_tokens": False}  # the harness adds none by default
QUESTIONS = [
    {"text": "The sun shone in the", "right": " sky", "wrong": " spoon"},
    {"text": "The dog ran to the", "right": " tree", "wrong": " sadly"},
    {"text": "Lily was very", "right": " happy", "wrong": " the"},
]


def _evaluate(url: str, model: str, task: dict[str, Any]) -> dict[str, Any]:
    """Return the results of ``task`` over QUESTIONS, with each request and its response."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "questions.jsonl"
        file.write_text("\n".join(map(json.dumps, QUESTIONS)))
        data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}}, "test_split": "test"}
        return lm_eval.simple_evaluate(
            model="local-completions",
            model_args={"base_url": f"{url}/completions", "model": model, "max_retries": 1},
            tasks=[{"task": "questions", "doc_to_text": "{{text}}", **data, **task}],
            bootstrap_iters=0,
        )


def log_likelihoods(url: str, model: str) -> None:
    results = _evaluate(
        url,
        model,
        {
            "output_type": "multiple_choice",
            "doc_to_choice": "{{[right, wrong]}}",
            "doc_to_target": 0,
            "target_delimiter": "",
        },
    )
    for sample in results["samples"]["questions"]:
        texts = [sample["doc"]["text"] + sample["doc"][name] for name in ("right", "wrong")]
        expected = [_log_likelihood(url, model, sample["doc"]["text"], text) for text in texts]
        measured = [response[0] for (response,) in sample["resps"]]
        assert all(math.isclose(*pair, abs_tol=1e-4) for pair in zip(measured, expected, strict=True))


def _log_likelihood(url: str, model: str, context: str, text: str) -> float:
    """Sum the log-probabilities of the tokens of ``text`` after ``context``."""
    body = {"model": model, "prompt": text, "echo": True, "logprobs": 0, "max_tokens": 0, **NO_SPECIAL_TOKENS}
    logprobs = requests.post(f"{url}/completions", json=body, timeout=60).json()["choices"][0]["logprobs"]
    pairs = zip(logprobs["text_offset"], logprobs["token_logprobs"], strict=True)
    return sum(logprob for offset, logprob in pairs if offset >= len(context))


def generation(url: str, model: str) -> None:
    options = {"until": ["."], "max_gen_toks": 12, "temperature": 0}
    results = _evaluate(
        url,
        model,
        {
            "output_type": "generate_until",
            "doc_to_target": "right",
            "generation_kwargs": options,
            "metric_list": [{"metric": "exact_match"}],
        },
    )
    for sample in results["samples"]["questions"]:
        prompt = {"model": model, "prompt": sample["doc"]["text"], **NO_SPECIAL_TOKENS}
        body = {**prompt, "max_tokens": 12, "temperature": 0, "stop": ["."]}
        expected = requests.post(f"{url}/completions", json=body, timeout=60).json()["choices"][0]["text"]
        assert sample["resps"][0][0] == expected


if __name__ == "__main__":
    run(log_likelihoods, generation)
