"""Computing what is missing: each job on each model, the models of a base loaded once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape

from slm_lab.errors import LabError
from slm_lab.evaluation.loading import EngineOptions, OpenModel, open_models
from slm_lab.evaluation.members import Group, Member
from slm_lab.evaluation.result_file import TaskRecord, find_record, save_record
from slm_lab.formatting import format_duration


@dataclass(frozen=True)
class Job:
    """Something to compute of each model.

    Attributes:
        name: Its name in eval.json and in the table.
        settings: What its results depend on besides the model and how it is loaded.
        run: Computes it; gets the settings too, to record them.
    """

    name: str
    settings: dict[str, Any]
    run: Callable[[OpenModel, dict[str, Any]], TaskRecord]


@dataclass
class Evaluation:
    """Runs jobs on the models of groups.

    Attributes:
        groups: The models.
        options: How they are loaded.
        overwrite: Whether results are computed again.
        console: Where progress is printed.
        records: The results of each model, by its name.
        failed: Sentences about what could not be computed.
    """

    groups: Sequence[Group]
    options: EngineOptions
    overwrite: bool
    console: Console
    records: dict[str, list[TaskRecord]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def run(self, jobs: Sequence[Job]) -> None:
        """Compute the jobs that no eval.json holds the results of.

        Raises:
            AdapterError, KVError: A model cannot be loaded.
            LabError: A file cannot be written.
        """
        for group in self.groups:
            known = {member: self._known(member, group, jobs) for member in group.members}
            wanted = [member for member, records in known.items() if len(records) < len(jobs)]
            for member in group.members:
                self.records.setdefault(member.name, [])
            for model in open_models(group, wanted, self.options):
                for job in jobs:
                    if job.name not in known[model.member]:
                        self._compute(job, model, group, known[model.member])
            for member, records in known.items():
                self.records[member.name] += [records[job.name] for job in jobs if job.name in records]

    def settings(self, job: Job) -> dict[str, Any]:
        """All that the results of a job depend on besides the weights."""
        return {**job.settings, "dtype": self.options.dtype, "max_length": self.options.max_length}

    def _known(self, member: Member, group: Group, jobs: Sequence[Job]) -> dict[str, TaskRecord]:
        if self.overwrite:
            return {}
        found = {job.name: find_record(member, group, job.name, self.settings(job)) for job in jobs}
        known = {name: record for name, record in found.items() if record}
        if known:
            names = ", ".join(known)
            self.console.print(f"[dim]{escape(member.name)}: computed before: {escape(names)}[/]", soft_wrap=True)
        return known

    def _compute(self, job: Job, model: OpenModel, group: Group, known: dict[str, TaskRecord]) -> None:
        start = time.perf_counter()
        try:
            record = job.run(model, self.settings(job))
        except LabError as error:
            self.failed.append(f"{model.member.name}: {error}")
            self.console.print(f"{escape(self.failed[-1])}", style="yellow", soft_wrap=True)
            return
        save_record(model.member, group, record, {"engine": model.engine.kind, "dtype": model.dtype})
        known[job.name] = record
        elapsed = format_duration(time.perf_counter() - start)
        self.console.print(f"[dim]{escape(model.member.name)}: {escape(job.name)} in {elapsed}[/]", soft_wrap=True)
