"""``slm-lab eval``: tasks, prompts with expected answers, and perplexity of run folders and their bases."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.markup import escape

from slm_lab.console import new_console
from slm_lab.errors import LabError
from slm_lab.evaluation.evaluator import Evaluation, Job
from slm_lab.evaluation.loading import EngineOptions
from slm_lab.evaluation.members import plan_groups
from slm_lab.evaluation.perplexity.sliding_window import perplexity_job
from slm_lab.evaluation.perplexity.text import read_text
from slm_lab.evaluation.prompt_file import PromptFile, read_prompts
from slm_lab.evaluation.prompts import prompts_job, prompts_task
from slm_lab.evaluation.prompts_report import write_answers
from slm_lab.evaluation.table import print_scores
from slm_lab.evaluation.tasks_command import compare_hf, load_tasks, task_jobs

Result = TypeVar("Result")


def evaluate(arguments: argparse.Namespace) -> int:
    """Evaluate the models and print a table. Returns the exit code: 1 if a part could not be computed.

    Raises:
        LabError: A flag, a task or a model is refused, or a file cannot be read or written.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not (arguments.tasks or arguments.prompts or arguments.perplexity):
        raise LabError("nothing to evaluate: give --tasks, --prompts or --perplexity; see slm-lab eval --help")
    return _translate_errors(lambda: _evaluate(arguments))


def _evaluate(arguments: argparse.Namespace) -> int:
    console = new_console()
    jobs: list[Job] = []
    failed: list[str] = []
    groups = plan_groups(arguments.runs, with_bases=not arguments.no_base, output_dir=arguments.output_dir)
    options = EngineOptions(arguments.dtype, arguments.device, arguments.max_length, arguments.threads)
    if arguments.tasks:
        tasks, failed = load_tasks(arguments, console)
        jobs += task_jobs(tasks)
        if arguments.compare_hf:
            compare_hf(tasks, groups, options, console)
    if arguments.perplexity:
        jobs.append(perplexity_job(read_text(arguments.perplexity), arguments.stride))
    if arguments.prompts:
        prompts = read_prompts(arguments.prompts)
        jobs.append(prompts_job(prompts, arguments.max_new_tokens))
    evaluation = Evaluation(groups, options, arguments.overwrite, console)
    if jobs:
        evaluation.run(jobs)
        print_scores(evaluation.records, console)
    if arguments.prompts:
        _write_answers(prompts, evaluation, arguments.output_dir, console)
    return 1 if failed or evaluation.failed else 0


def _write_answers(prompts: PromptFile, evaluation: Evaluation, folder: Path, console: Console) -> None:
    records = {
        name: record
        for name, each in evaluation.records.items()
        for record in each
        if record.task == prompts_task(prompts)
    }
    if records:
        console.print(f"answers side by side: {escape(str(write_answers(prompts, records, folder)))}", soft_wrap=True)


def _translate_errors(run: Callable[[], Result]) -> Result:
    """Run, with the errors of other packages about a user's mistake as LabError."""
    from slm_adapters import AdapterError
    from slm_data import DataError
    from slm_kv import KVError

    try:
        return run()
    except (AdapterError, DataError, KVError) as error:
        raise LabError(str(error)) from error
