"""Refusing tasks that run code which is not part of an installed package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lm_eval.utils
import yaml
from jinja2 import BaseLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from lm_eval.api.registry import metric_registry
from lm_eval.tasks import TaskManager

from slm_lab.errors import LabError
from slm_lab.evaluation.harness.task_files import BUILT_IN, task_entries

PLAIN_TAGS = {
    f"tag:yaml.org,2002:{name}"
    for name in ["map", "seq", "str", "int", "float", "bool", "null", "timestamp", "binary", "merge"]
}
# Readers of datasets that execute or unpickle nothing. "pandas" reads pickles.
READERS = ("json", "csv", "parquet", "text", "arrow")
UNSAFE_READERS = ("pandas", "webdataset", "eval")
REMEDY = "give --allow_code if you trust it"


def check_code(manager: TaskManager, names: Sequence[str]) -> None:
    """Check the files of tasks that are not part of lm-eval.

    Raises:
        LabError: One calls a function (``!function``) or reads data in a way that can run code.
    """
    for entry in task_entries(manager, names):
        path = entry.yaml_path.resolve()
        if path.is_relative_to(BUILT_IN):
            continue
        for file in _with_includes(path, set()):
            if tag := next((node.tag for node in _nodes(file) if node.tag not in PLAIN_TAGS), None):
                raise LabError(f"{file} has {tag}, with which a task runs code; {REMEDY}")
        _check_settings(entry.cfg or {}, path)


def use_sandbox() -> None:
    """Render the templates of tasks in a sandbox: lm-eval renders them so that they can reach any Python object."""
    sandbox = ImmutableSandboxedEnvironment(loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True)
    sandbox.filters.update(lm_eval.utils.env.filters)
    lm_eval.utils.env = sandbox


def _check_settings(settings: dict[str, Any], path: Path) -> None:
    if settings.get("unsafe_code"):
        raise LabError(f"{path} is marked as unsafe code, which runs what the model writes; {REMEDY}")
    if settings.get("dataset_path") in UNSAFE_READERS:
        reader = settings["dataset_path"]
        raise LabError(f"{path} reads data with {reader!r}, which can run code; use one of {', '.join(READERS)}")
    if dict(settings.get("dataset_kwargs") or {}).get("trust_remote_code"):
        raise LabError(f"{path} sets trust_remote_code, with which a dataset runs code; {REMEDY}")
    for metric in settings.get("metric_list") or []:
        name = metric.get("metric")
        if metric.get("hf_evaluate") or name not in metric_registry:
            raise LabError(f"{path} has the metric {name!r}, whose code would come from the hub; {REMEDY}")


def _with_includes(path: Path, visited: set[Path]) -> Iterator[Path]:
    """Yield a file and those that it includes, except for lm-eval's own."""
    if path in visited or path.is_relative_to(BUILT_IN):
        return
    visited.add(path)
    yield path
    content = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    for key, value in getattr(content, "value", []):
        if key.value == "include":
            for included in value.value if isinstance(value.value, list) else [value]:
                yield from _with_includes((path.parent / included.value).resolve(), visited)


def _nodes(path: Path) -> Iterator[yaml.Node]:
    root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    stack: list[yaml.Node] = [root] if root else []
    while stack:
        node = stack.pop()
        yield node
        if isinstance(node, yaml.MappingNode):
            stack += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            stack += node.value
