"""The files of ``--prompts``: a page with the answers side by side, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slm_lab.disk_errors import explain_disk_errors
from slm_lab.evaluation.answer_metrics import exact_match, f1
from slm_lab.evaluation.prompt_file import Prompt, PromptFile
from slm_lab.evaluation.result_file import TaskRecord
from slm_lab.report.prompts_page import AnsweredPrompt, render_prompts_page


def write_answers(file: PromptFile, records: Mapping[str, TaskRecord], folder: Path) -> Path:
    """Write the answers of each model, by its name, and return the path of the page.

    Raises:
        LabError: A file cannot be written.
    """
    answers = {name: record.details["answers"] for name, record in records.items()}
    prompts = [
        _answered(prompt, [texts[index] for texts in answers.values()]) for index, prompt in enumerate(file.prompts)
    ]
    stem = Path(file.name).stem
    page = render_prompts_page(
        file.name,
        {name: record.scores for name, record in records.items()},
        prompts,
        [_count(len(file.prompts), "prompt"), _count(len(records), "model"), "greedy answers"],
    )
    with explain_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        content = {"prompts": file.name, "scores": _scores(records), "answers": _as_json(file.prompts, answers)}
        text = json.dumps(content, indent=1, ensure_ascii=False)
        (folder / f"{stem}.json").write_text(text + "\n", encoding="utf-8")
        (folder / f"{stem}.html").write_text(page, encoding="utf-8")
    return folder / f"{stem}.html"


def _answered(prompt: Prompt, answers: Sequence[str]) -> AnsweredPrompt:
    turns = prompt.messages or (("", prompt.text or ""),)
    if not prompt.expected:
        return AnsweredPrompt(turns, (), answers)
    exact = [bool(exact_match(text, prompt.expected)) for text in answers]
    return AnsweredPrompt(turns, prompt.expected, answers, exact, [f1(text, prompt.expected) for text in answers])


def _scores(records: Mapping[str, TaskRecord]) -> dict[str, dict[str, dict[str, float | None]]]:
    return {
        name: {score.metric: {"value": score.value, "stderr": score.stderr} for score in record.scores}
        for name, record in records.items()
    }


def _as_json(prompts: Sequence[Prompt], answers: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    return [
        {
            **_prompt_as_json(prompt),
            "expected": list(prompt.expected),
            "answers": {name: texts[index] for name, texts in answers.items()},
        }
        for index, prompt in enumerate(prompts)
    ]


def _prompt_as_json(prompt: Prompt) -> dict[str, Any]:
    if prompt.text is not None:
        return {"prompt": prompt.text}
    return {"messages": [{"role": role, "content": text} for role, text in prompt.messages]}


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
