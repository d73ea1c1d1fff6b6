"""``slm-lab eval --tasks``: tasks of lm-eval on several models."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from slm_lab.errors import LabError
from slm_lab.evaluation.evaluator import Job
from slm_lab.evaluation.hf_report import print_comparisons
from slm_lab.evaluation.loading import EngineOptions, OpenModel, open_models
from slm_lab.evaluation.members import Group
from slm_lab.evaluation.result_file import TaskRecord

if TYPE_CHECKING:
    from slm_lab.evaluation.harness.run_tasks import TaskRunner


def load_tasks(arguments: argparse.Namespace, console: Console) -> tuple[TaskRunner, list[str]]:
    """Load the tasks, and return them with the names of those that cannot be loaded.

    Raises:
        LabError: lm-eval is not installed, or a task is unknown or runs code.
    """
    if find_spec("lm_eval") is None:
        raise LabError('--tasks needs lm-eval, which is not installed: pip install "slm-lab[eval]"')
    from slm_lab.evaluation.harness.run_tasks import TaskOptions, TaskRunner

    options = TaskOptions(
        arguments.limit,
        arguments.num_fewshot,
        arguments.apply_chat_template,
        arguments.include_path,
        arguments.allow_code,
    )
    runner = TaskRunner(arguments.tasks, options)
    failed = []
    for name in arguments.tasks:
        try:
            runner.load(name)
        except LabError as error:
            console.print(escape(str(error)), style="yellow", soft_wrap=True)
            failed.append(name)
    return runner, failed


def task_jobs(runner: TaskRunner) -> list[Job]:
    """The loaded tasks as jobs."""
    return [_job(runner, name) for name in runner.loaded]


def compare_hf(runner: TaskRunner, groups: Sequence[Group], options: EngineOptions, console: Console) -> None:
    """Run the loaded tasks with the engine and with lm-eval's ``hf`` model in turn, and print times and differences.

    Raises:
        AdapterError, KVError: A model cannot be loaded.
        LabError: A task fails.
    """
    from slm_lab.evaluation.harness.hf_comparison import compare_task, load_hf_model

    rows = []
    for group in groups:
        for model in open_models(group, group.members, options):
            hf_model = load_hf_model(model)
            rows += [(model.member.name, compare_task(runner, name, model, hf_model)) for name in runner.loaded]
    print_comparisons(rows, console)


def _job(runner: TaskRunner, name: str) -> Job:
    settings = runner.settings(name)

    def run(model: OpenModel, settings: dict[str, object]) -> TaskRecord:
        return runner.run(name, model, settings)

    return Job(name, settings, run)
