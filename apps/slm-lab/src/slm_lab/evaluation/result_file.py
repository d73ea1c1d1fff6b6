"""Writing eval.json, and finding results that need not be computed again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from slm_lab.disk_errors import explain_disk_errors
from slm_lab.evaluation.members import Group, Member
from slm_lab.runs.evaluations import EVALUATION_FILE, FORMAT, Score, parse_scores, read_evaluation_file

PACKAGES = ("slm-lab", "slm-kv", "slm-adapters", "lm-eval", "torch", "transformers", "peft", "datasets")


@dataclass(frozen=True)
class TaskRecord:
    """The results of one task.

    Attributes:
        task: The task, a text or a file of prompts.
        settings: What the results depend on besides the weights. A record is used again if they are equal.
        scores: The results.
        examples: The number of examples.
        details: More about the computation: version of the task, engine, seconds.
    """

    task: str
    settings: Mapping[str, Any]
    scores: Sequence[Score]
    examples: int
    details: Mapping[str, Any] = field(default_factory=dict)

    def content(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """The record as JSON, with what is known of the loaded model."""
        return {
            "settings": dict(self.settings),
            "scores": [asdict(score) for score in self.scores],
            "n": self.examples,
            **self.details,
            **model,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": package_versions(),
        }


def result_folders(member: Member, group: Group) -> list[Path]:
    """The folders whose eval.json holds the results of a model: a base has no folder, its runs hold them."""
    return [member.folder] if member.folder else group.base_folders


def find_record(member: Member, group: Group, task: str, settings: Mapping[str, Any]) -> TaskRecord | None:
    """Return the results of a task with the same weights and settings, if any folder holds them."""
    for folder in result_folders(member, group):
        content = _section(read_evaluation_file(folder / EVALUATION_FILE), member)
        record = content.get("tasks", {}).get(task) if content.get("identity") == member.identity else None
        if record and record.get("settings") == dict(settings):
            details = {key: value for key, value in record.items() if key not in ("settings", "scores", "n")}
            return TaskRecord(task, settings, parse_scores(record), int(record.get("n") or 0), details)
    return None


def save_record(member: Member, group: Group, record: TaskRecord, model: Mapping[str, Any]) -> None:
    """Write the results of a task, and drop results of other weights.

    Raises:
        LabError: The file cannot be written.
    """
    for folder in result_folders(member, group):
        with explain_disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / EVALUATION_FILE
            content = read_evaluation_file(path) or {"format": FORMAT}
            section = _section(content, member)
            known = section.get("tasks", {}) if section.get("identity") == member.identity else {}
            section.update(
                name=member.name, identity=member.identity, tasks={**known, record.task: record.content(model)}
            )
            if member.folder is None:
                content["base"] = section
            _write(path, content)


def _section(content: dict[str, Any], member: Member) -> dict[str, Any]:
    if member.folder is not None:
        return content
    base = content.get("base")
    return base if isinstance(base, dict) else {}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    # Renaming within a folder is atomic: readers see the old file or the new one, never a part.
    temporary = path.with_name(f".{path.name}.writing")
    temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def package_versions() -> dict[str, str]:
    """The versions of the packages that results can depend on, as far as they are installed."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
