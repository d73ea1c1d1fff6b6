"""The flags of Hugging Face's TrainingArguments, read from its source.

Importing TrainingArguments imports torch, which takes seconds; ``--help``, a mistyped flag and a broken ``--config``
need only names, types, defaults and help texts, which are read from the syntax tree of the installed transformers. A
test compares them with the real dataclass.
"""

from __future__ import annotations

import ast
from dataclasses import MISSING, dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TrainingFlag:
    """A field of the training arguments. ``type`` is its annotation as written.

    ``default`` is MISSING where the source has no literal default.
    """

    name: str
    type: str
    default: Any
    help: str


@cache
def training_flags() -> tuple[TrainingFlag, ...]:
    """Return the flags of ``SlmTrainingArguments``, in the order of the dataclass."""
    # Specs of top-level packages only: finding a submodule would import its package.
    theirs = _package_folder("transformers") / "training_args.py"
    ours = _package_folder("slm_train") / "arguments.py"
    flags = read_flags_of_class(theirs, "TrainingArguments") | read_flags_of_class(ours, "SlmTrainingArguments")
    return tuple(flags.values())


def read_flags_of_class(source: Path, class_name: str) -> dict[str, TrainingFlag]:
    """Read the fields of a dataclass and of those of its base classes that ``source`` defines, by name."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    return _flags_of_class(classes, class_name)


def _flags_of_class(classes: dict[str, ast.ClassDef], class_name: str) -> dict[str, TrainingFlag]:
    flags: dict[str, TrainingFlag] = {}
    if class_name not in classes:
        return flags
    for base in classes[class_name].bases:
        flags |= _flags_of_class(classes, ast.unparse(base))
    for node in classes[class_name].body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and _is_argument(node.value):
            flags[node.target.id] = _flag(node.target.id, node)
    return flags


def _flag(name: str, node: ast.AnnAssign) -> TrainingFlag:
    keywords = _field_keywords(node.value)
    default = _literal(keywords.get("default")) if keywords else _literal(node.value)
    return TrainingFlag(name, ast.unparse(node.annotation), default, _help(keywords.get("metadata")))


def _help(metadata: ast.expr | None) -> str:
    """Return the help text in a dict of metadata, of which other entries may not be literals (``choices``)."""
    if not isinstance(metadata, ast.Dict):
        return ""
    entries = {ast.unparse(key): value for key, value in zip(metadata.keys, metadata.values, strict=True) if key}
    text = _literal(entries.get("'help'"))
    return text if isinstance(text, str) else ""


def _is_argument(value: ast.expr | None) -> bool:
    """Return whether a field is an argument of the class: ``field(init=False)`` is not."""
    return _literal(_field_keywords(value).get("init")) is not False


def _field_keywords(value: ast.expr | None) -> dict[str | None, ast.expr]:
    """Return the arguments of a call of ``field``; nothing for a plain default."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "field":
        return {keyword.arg: keyword.value for keyword in value.keywords}
    return {}


def _literal(value: ast.expr | None) -> Any:
    if value is None:
        return MISSING
    try:
        return ast.literal_eval(value)
    except ValueError:  # a name or a call
        return MISSING


def _package_folder(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])
