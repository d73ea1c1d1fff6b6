"""Normalising a command line for argparse: flags from a file, legacy names, one spelling for each flag."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from slm_train.command_line.config_file import CONFIG_FLAG, read_config_file
from slm_train.command_line.flag_names import plain_name, reads_as_flag, unknown_flag
from slm_train.command_line.flag_types import Flag, Renamed, Translation
from slm_train.command_line.legacy_flags import LEGACY_FLAGS, join_hub_owner, translate_value
from slm_train.errors import UsageError

_FLAG = re.compile(r"--([^\s=]+)(?:=(.*))?", re.DOTALL)
_NEGATIVE_NUMBER = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|-inf", re.IGNORECASE)


@dataclass(frozen=True)
class CommandLine:
    """A command line that argparse can read.

    Attributes:
        argv: Words for argparse.
        explicit_flags: Current names of the flags that the user set, in the file or on the line. A default that
            depends on device or mode applies only to flags that are not among them.
        notes: A line to print for each flag that was translated.
        is_dynamic: Whether it is one of ``slm-train dynamic``.
    """

    argv: list[str]
    explicit_flags: frozenset[str]
    notes: tuple[str, ...]
    is_dynamic: bool = False


def read_command_line(argv: Sequence[str], known: Collection[str]) -> CommandLine:
    """Expand ``--config``, translate legacy names, and spell each flag ``--a_b value``.

    Args:
        argv: The words of the command line.
        known: Every long option of the parser, with or without dashes.

    Raises:
        UsageError: For an unknown flag, a broken file of flags, or a legacy flag together with its replacement.
    """
    names = {plain_name(name) for name in known if not re.match(r"-[^-]", name)} | {"help"}
    strays, flags, rest = _split(argv, names)
    path = _config_path(flags)
    in_file, file_notes = _to_current(read_config_file(path, names), names, f"{path}: ") if path else ([], [])
    on_line, notes = _to_current([flag for flag in flags if flag.name != CONFIG_FLAG], names)
    names_on_line = {flag.name for flag in on_line}
    merged = [*(flag for flag in in_file if flag.name not in names_on_line), *on_line]
    words = [word for flag in merged for word in _words(flag)]
    explicit_flags = frozenset(flag.name for flag in merged)
    # Stray words come first: after a flag, argparse would take them for its values.
    return CommandLine([*strays, *words, *rest], explicit_flags, tuple(dict.fromkeys(file_notes + notes)))


def _split(argv: Sequence[str], known: Collection[str]) -> tuple[list[str], list[Flag], list[str]]:
    """Return words that belong to no flag, flags with their values, and everything from a bare ``--`` on."""
    end = argv.index("--") if "--" in argv else len(argv)
    strays: list[str] = []
    flags: list[tuple[str, list[str]]] = []
    values = strays
    for word in argv[:end]:
        if match := _FLAG.fullmatch(word):
            values = [] if match[2] is None else [match[2]]
            flags.append((match[1], values))
        elif not _is_value(word):  # a flag with one dash: left to argparse, with the words after it
            strays.append(word)
            values = strays
        else:
            is_full = values is not strays and values and _takes_one_value(plain_name(flags[-1][0]), values[0], known)
            (strays if is_full else values).append(word)
    return strays, [Flag(plain_name(name), tuple(words), name) for name, words in flags], list(argv[end:])


def _is_value(word: str) -> bool:
    # A word with a space is a text that begins with a dash ("- no, he said"): names of flags contain no spaces.
    return not word.startswith("-") or word == "-" or " " in word or bool(_NEGATIVE_NUMBER.fullmatch(word))


def _takes_one_value(name: str, first: str, known: Collection[str]) -> bool:
    """Return whether no word after the first can be a value of the flag.

    That is so for flags that are translated to one value, and for a first value that argparse accepts only in the
    form ``--flag=-value``.
    """
    legacy = None if name in known else LEGACY_FLAGS.get(name)
    return name == CONFIG_FLAG or not isinstance(legacy, Renamed | None) or reads_as_flag(first)


def _words(flag: Flag) -> list[str]:
    if len(flag.values) == 1 and reads_as_flag(flag.values[0]):
        return [f"--{flag.name}={flag.values[0]}"]
    return [f"--{flag.name}", *flag.values]


def _to_current(flags: Sequence[Flag], known: Collection[str], prefix: str = "") -> tuple[list[Flag], list[str]]:
    """Return the flags under their current names, and a note for each that was translated.

    ``prefix`` names the file in the message of an error.
    """
    try:
        translations = [_translate(flag, known) for flag in join_hub_owner(flags)]
        current = [flag for flag, _ in translations if flag is not None]
        _refuse_two_names(current)
    except UsageError as error:
        raise UsageError(f"{prefix}{error}") from None
    return current, [note for _, note in translations if note]


def _translate(flag: Flag, known: Collection[str]) -> Translation:
    if flag.name not in {*known, *LEGACY_FLAGS}:
        raise unknown_flag(flag.original_name, known)
    if flag.name not in known:
        return LEGACY_FLAGS[flag.name].translate(flag)
    if flag.name.startswith("no_") and flag.name[3:] in known:
        values = ("false" if flag.is_on else "true", *flag.values[1:])
        return replace(flag, name=flag.name[3:], values=values), ""
    return translate_value(flag)


def _refuse_two_names(flags: list[Flag]) -> None:
    """Raise UsageError for a flag that is given under its legacy name and under another one."""
    first_names: dict[str, str] = {}
    for flag in flags:
        first, second = first_names.setdefault(flag.name, flag.original_name), flag.original_name
        names = {plain_name(first), plain_name(second)}
        if len(names) == 2 and names & LEGACY_FLAGS.keys():
            raise UsageError(f"--{first} and --{second} are the same flag now; give --{flag.name} alone")


def _config_path(flags: list[Flag]) -> str | None:
    config_flags = [flag for flag in flags if flag.name == CONFIG_FLAG]
    if len(config_flags) > 1:
        raise UsageError("--config is given twice; put all flags in one file")
    if config_flags and not config_flags[0].value:
        raise UsageError("--config needs a file: --config run.yaml")
    return config_flags[0].value if config_flags else None
