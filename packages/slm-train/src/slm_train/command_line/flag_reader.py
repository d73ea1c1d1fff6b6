"""The command line before argparse sees it: a file of flags, names of 2023, one spelling for each flag."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

import yaml

from slm_train.old_flags import OLD_FLAGS, BadValue, Flag, Renamed, Translation, with_new_value, with_organization

CONFIG = "config"
FLAG = re.compile(r"--([^\s=]+)(?:=(.*))?", re.DOTALL)
NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|-inf", re.IGNORECASE)
PLAIN_NEGATIVE = re.compile(r"-\d+|-\d*\.\d+")  # what argparse takes for a value; not -1e-3
PLAIN_DECIMAL = re.compile(r"[+-]?\d*\.\d*")


class UsageError(ValueError):
    """One sentence for the user: what was wrong with the command line, and what to do."""


@dataclass(frozen=True)
class CommandLine:
    """A command line that argparse can read.

    ``given`` are the flags that the user set, in the file or on the line, by today's names: a default
    belongs only where nothing was given. ``notes`` has one line for each flag that was translated.
    """

    argv: list[str]
    given: frozenset[str]
    notes: tuple[str, ...]


def read_command_line(argv: Sequence[str], known: Collection[str]) -> CommandLine:
    """``argv`` with ``--config`` expanded, old names translated and each flag spelled ``--a_b value``.

    ``known`` holds every long option of the parser, with or without dashes. Raises UsageError.
    """
    names = {_plain(name) for name in known if not re.match(r"-[^-]", name)} | {"help"}
    strays, flags, rest = _split(argv, names)
    path = _config_path(flags)
    file, file_notes = _modern(_config_flags(path, names), names, f"{path}: ") if path else ([], [])
    line, notes = _modern([flag for flag in flags if flag.name != CONFIG], names)
    told = [*(flag for flag in file if flag.name not in {other.name for other in line}), *line]
    words = [word for flag in told for word in _words(flag)]
    given = frozenset(flag.name for flag in told)
    # Strays come first: behind a flag they would be taken for its values.
    return CommandLine([*strays, *words, *rest], given, tuple(dict.fromkeys(file_notes + notes)))


def unknown_flag(flag: str, known: Collection[str]) -> UsageError:
    """The sentence for a flag that nobody knows, with up to three known ones that it may have meant."""
    name, names = _plain(flag).lower(), sorted({_plain(name) for name in known})
    longer = [candidate for candidate in names if len(name) > 2 and name in candidate]
    longer = [candidate for candidate in longer if candidate.startswith(name)] or longer
    close = list(dict.fromkeys([*get_close_matches(name, names, n=3, cutoff=0.8), *longer]))[:3]
    meant = " or ".join(f"--{candidate}" for candidate in close or get_close_matches(name, names, n=1))
    hint = f"did you mean {meant}?" if meant else "slm-train --help lists the flags"
    return UsageError(f"unknown flag --{flag.lstrip('-')}; {hint}")


def _plain(name: str) -> str:
    return name.lstrip("-").replace("-", "_")


def _split(argv: Sequence[str], known: Collection[str]) -> tuple[list[str], list[Flag], list[str]]:
    """Words that belong to no flag, flags with their values, and everything from a bare ``--`` on."""
    end = argv.index("--") if "--" in argv else len(argv)
    strays: list[str] = []
    found: list[tuple[str, list[str]]] = []
    values = strays
    for word in argv[:end]:
        if match := FLAG.fullmatch(word):
            values = [] if match[2] is None else [match[2]]
            found.append((match[1], values))
        elif not _is_value(word):  # a flag with one dash: argparse's, with what follows it
            strays.append(word)
            values = strays
        else:
            full = values is not strays and values and _takes_one(_plain(found[-1][0]), values[0], known)
            (strays if full else values).append(word)
    return strays, [Flag(_plain(said), tuple(values), said) for said, values in found], list(argv[end:])


def _is_value(word: str) -> bool:
    return not word.startswith("-") or word == "-" or " " in word or bool(NEGATIVE.fullmatch(word))


def _takes_one(name: str, first: str, known: Collection[str]) -> bool:
    """Whether no word after the first can be the flag's: it ends here, or argparse needs ``--flag=-first``."""
    old = None if name in known else OLD_FLAGS.get(name)
    return name == CONFIG or not isinstance(old, Renamed | None) or _reads_as_flag(first)


def _words(flag: Flag) -> list[str]:
    if len(flag.values) == 1 and _reads_as_flag(flag.values[0]):
        return [f"--{flag.name}={flag.values[0]}"]
    return [f"--{flag.name}", *flag.values]


def _reads_as_flag(value: str) -> bool:
    return value.startswith("-") and value != "-" and not PLAIN_NEGATIVE.fullmatch(value)


def _modern(flags: Sequence[Flag], known: Collection[str], where: str = "") -> tuple[list[Flag], list[str]]:
    """The flags by today's names, and a note for each that had another."""
    try:
        pairs = [_translated(flag, known) for flag in with_organization(flags)]
        modern = [flag for flag, _ in pairs if flag is not None]
        _refuse_two_names(modern)
    except (BadValue, UsageError) as mistake:
        raise UsageError(f"{where}{mistake}") from None
    return modern, [note for _, note in pairs if note]


def _translated(flag: Flag, known: Collection[str]) -> Translation:
    if flag.name not in {*known, *OLD_FLAGS}:
        raise unknown_flag(flag.said, known)
    if flag.name not in known:
        return OLD_FLAGS[flag.name].translate(flag)
    if flag.name.startswith("no_") and flag.name[3:] in known:
        values = ("false" if flag.is_on else "true", *flag.values[1:])
        return replace(flag, name=flag.name[3:], values=values), ""
    return with_new_value(flag)


def _refuse_two_names(flags: list[Flag]) -> None:
    first: dict[str, str] = {}
    for flag in flags:
        one, other = first.setdefault(flag.name, flag.said), flag.said
        if _plain(one) != _plain(other) and {_plain(one), _plain(other)} & OLD_FLAGS.keys():
            raise UsageError(f"--{one} and --{other} are one flag now; give --{flag.name} alone")


def _config_path(flags: list[Flag]) -> str | None:
    named = [flag for flag in flags if flag.name == CONFIG]
    if len(named) > 1:
        raise UsageError("--config is given twice; put all flags in one file")
    if named and not named[0].value:
        raise UsageError("--config needs a file: --config run.yaml")
    return named[0].value if named else None


def _config_flags(path: str, known: Collection[str]) -> list[Flag]:
    """The flags of a YAML file, null left out."""
    try:
        loader = yaml.SafeLoader(Path(path).read_text(encoding="utf-8-sig"))
        root = loader.get_single_node()
        if root is None:  # nothing but comments
            return []
        if not isinstance(root, yaml.MappingNode):
            raise UsageError(f"{path} must hold lines such as 'learning_rate: 1e-4', one a flag")
        return _flags_of(loader, root, path, known)
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path} is not YAML: {_trouble(error)}") from None


def _trouble(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return str(error).splitlines()[0]


def _flags_of(loader: yaml.SafeLoader, root: yaml.MappingNode, path: str, known: Collection[str]) -> list[Flag]:
    flags: dict[str, Flag] = {}
    for key, node in root.value:
        where = f"{path}, line {key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise UsageError(f"{where}: the name of a flag must be a plain word")
        flag = Flag(_plain(key.value), _values(loader, node, where), key.value.lstrip("-"))
        _refuse_key(flag, known, flags, where)
        flags[flag.name] = flag
    return [flag for flag in flags.values() if flag.values]


def _refuse_key(flag: Flag, known: Collection[str], before: Collection[str], where: str) -> None:
    if flag.name == CONFIG:
        raise UsageError(f"{where}: a file of flags cannot name another")
    if flag.name not in {*known, *OLD_FLAGS}:
        raise UsageError(f"{where}: {unknown_flag(flag.said, known)}")
    if flag.name in before:
        raise UsageError(f"{where}: {flag.said} is there twice; keep one")


def _values(loader: yaml.SafeLoader, node: yaml.Node, where: str) -> tuple[str, ...]:
    """What argparse is to read: nothing for null, several words for a list, JSON for a mapping."""
    if isinstance(node, yaml.MappingNode):
        return (json.dumps(loader.construct_object(node, deep=True), default=str),)
    if isinstance(node, yaml.ScalarNode):
        return () if _is_null(node) else (_text(loader, node),)
    if not node.value or not all(isinstance(item, yaml.ScalarNode) and not _is_null(item) for item in node.value):
        raise UsageError(f"{where}: a list needs one or more plain values")
    words = tuple(_text(loader, item) for item in node.value)
    if len(words) > 1 and any(_reads_as_flag(word) for word in words):
        raise UsageError(f"{where}: a value in a list cannot begin with a dash")
    return words


def _is_null(node: yaml.Node) -> bool:
    return node.tag == "tag:yaml.org,2002:null"


def _text(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    """A scalar as it is written, dates and 1e-4 too; switches and scientific numbers as Python has them.

    ``no`` stays a word: the flags of strategies take it, and switches read it as false.
    """
    is_switch = node.tag == "tag:yaml.org,2002:bool" and node.value.lower() != "no"
    is_science = node.tag == "tag:yaml.org,2002:float" and not PLAIN_DECIMAL.fullmatch(node.value)
    value = loader.construct_object(node) if is_switch or is_science else node.value
    return str(value).lower() if is_switch else str(value)
