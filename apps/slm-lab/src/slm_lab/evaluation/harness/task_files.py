"""Finding tasks by name, without lm-eval's index of all its 15,000 files, which takes half a minute."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import lm_eval.tasks
from lm_eval.tasks import TaskManager

from slm_lab.errors import LabError

BUILT_IN = Path(lm_eval.tasks.__file__).parent
_DECLARATION = re.compile(r"^(?:task|group|tag):[ \t]*([\w.-]+)[ \t]*$|^tag:((?:\s*\n\s*- +[\w.-]+)+)", re.MULTILINE)


def task_manager(names: Sequence[str], include_path: Path | None) -> TaskManager:
    """Return a task manager that knows ``names``, those of lm-eval and those in the folder ``include_path``.

    Raises:
        LabError: A name is unknown, or the folder does not exist.
    """
    if include_path is not None and not include_path.is_dir():
        raise LabError(f"--include_path {include_path} is not a folder; give one with YAML files of tasks")
    local = TaskManager(include_path=include_path, include_defaults=False)
    missing = [name for name in names if name not in local.task_index]
    if not missing:
        return local
    declared = declared_names()
    for name in missing:
        if name not in declared:
            raise LabError(_unknown(name, [*declared, *local.task_index]))
    folders = sorted({file.parent for name in missing for file in declared[name]})
    manager = TaskManager(include_path=[*folders, *([include_path] if include_path else [])], include_defaults=False)
    if _complete(manager, names):
        return manager
    return TaskManager(include_path=include_path)  # a group of tasks in other folders


@cache
def declared_names() -> dict[str, list[Path]]:
    """The names of lm-eval's own tasks, groups and tags, with the files that declare them."""
    names: dict[str, list[Path]] = {}
    for file in sorted(BUILT_IN.glob("**/*.yaml")):
        for name in _declarations(file.read_text(encoding="utf-8", errors="replace")):
            names.setdefault(name, []).append(file)
    return names


def _declarations(text: str) -> Iterator[str]:
    for match in _DECLARATION.finditer(text):
        if match[1]:
            yield match[1]
        else:
            yield from re.findall(r"- +([\w.-]+)", match[2])


def _complete(manager: TaskManager, names: Sequence[str]) -> bool:
    """Whether the manager knows the names and all members of groups."""
    return all(name in manager.task_index for name in [*names, *_members(manager, names)])


def _members(manager: TaskManager, names: Sequence[str]) -> Iterator[str]:
    for name in names:
        entry = manager.task_index.get(name)
        members: Any = (entry.cfg or {}).get("task") if entry else None
        for member in members if isinstance(members, list) else []:
            child = member if isinstance(member, str) else member.get("task") or member.get("group")
            if isinstance(child, str):
                yield child
                yield from _members(manager, [child])


def task_entries(manager: TaskManager, names: Sequence[str]) -> Iterator[Any]:
    """Yield lm-eval's index entries of ``names``, of the members of groups, and of the tasks with a tag."""
    for name in dict.fromkeys([*names, *_members(manager, names)]):
        entry = manager.task_index[name]
        tagged = entry.tags if entry.yaml_path is None else ()
        for each in [entry, *(manager.task_index[task] for task in sorted(tagged))]:
            if each.yaml_path is not None:
                yield each


def _unknown(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "see the tasks of lm-eval, or give --include_path"
    return f"there is no task {name!r}; {hint}"
