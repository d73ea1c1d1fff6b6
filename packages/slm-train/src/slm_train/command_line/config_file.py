"""Flags from a YAML file, ``--config run.yaml``."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path

import yaml

from slm_train.command_line.flag_names import plain_name, reads_as_flag, unknown_flag
from slm_train.command_line.flag_types import Flag
from slm_train.command_line.legacy_flags import LEGACY_FLAGS
from slm_train.errors import UsageError

CONFIG_FLAG = "config"
_PLAIN_DECIMAL = re.compile(r"[+-]?\d*\.\d*")


def read_config_file(path: str, known: Collection[str]) -> list[Flag]:
    """Return the flags of a YAML file. Those with the value null are left out.

    Raises UsageError, naming file and line, for a file that is missing or is not YAML, and for unknown flags.
    """
    try:
        # utf-8-sig: editors on Windows put a byte-order mark at the beginning.
        loader = yaml.SafeLoader(Path(path).read_text(encoding="utf-8-sig"))
        root = loader.get_single_node()
        if root is None:  # nothing but comments
            return []
        if not isinstance(root, yaml.MappingNode):
            raise UsageError(f"{path} must consist of lines such as 'learning_rate: 1e-4', one for each flag")
        return _flags_of(loader, root, path, known)
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path} is not YAML: {_yaml_problem(error)}") from None


def _yaml_problem(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return str(error).splitlines()[0]


def _flags_of(loader: yaml.SafeLoader, root: yaml.MappingNode, path: str, known: Collection[str]) -> list[Flag]:
    flags: dict[str, Flag] = {}
    for key, node in root.value:
        location = f"{path}, line {key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise UsageError(f"{location}: the name of a flag must be a plain word")
        flag = Flag(plain_name(key.value), _values(loader, node, location), key.value.lstrip("-"))
        _check_name(flag, known, flags, location)
        flags[flag.name] = flag
    return [flag for flag in flags.values() if flag.values]


def _check_name(flag: Flag, known: Collection[str], earlier: Collection[str], location: str) -> None:
    if flag.name == CONFIG_FLAG:
        raise UsageError(f"{location}: a file of flags cannot name another one")
    if flag.name not in {*known, *LEGACY_FLAGS}:
        raise UsageError(f"{location}: {unknown_flag(flag.original_name, known)}")
    if flag.name in earlier:
        raise UsageError(f"{location}: {flag.original_name} is set twice; keep one")


def _values(loader: yaml.SafeLoader, node: yaml.Node, location: str) -> tuple[str, ...]:
    """Return the words for argparse: none for null, several for a list, JSON for a mapping."""
    if isinstance(node, yaml.MappingNode):
        return (json.dumps(loader.construct_object(node, deep=True), default=str),)
    if isinstance(node, yaml.ScalarNode):
        return () if _is_null(node) else (_text(loader, node),)
    if not node.value or not all(isinstance(item, yaml.ScalarNode) and not _is_null(item) for item in node.value):
        raise UsageError(f"{location}: a list needs one or more plain values")
    words = tuple(_text(loader, item) for item in node.value)
    if len(words) > 1 and any(reads_as_flag(word) for word in words):
        raise UsageError(f"{location}: a value in a list cannot begin with a dash")
    return words


def _is_null(node: yaml.Node) -> bool:
    return node.tag == "tag:yaml.org,2002:null"


def _text(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    """Return a scalar as it is written, dates and 1e-4 included; switches and scientific numbers as Python has them.

    YAML 1.1 reads ``no`` as false. Here it stays a word, because it is a value of --eval_strategy and its like;
    switches read it as false anyway.
    """
    is_switch = node.tag == "tag:yaml.org,2002:bool" and node.value.lower() != "no"
    is_scientific = node.tag == "tag:yaml.org,2002:float" and not _PLAIN_DECIMAL.fullmatch(node.value)
    value = loader.construct_object(node) if is_switch or is_scientific else node.value
    return str(value).lower() if is_switch else str(value)
