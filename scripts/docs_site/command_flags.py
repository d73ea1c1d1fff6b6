"""The flags of the commands, taken from their parsers; of slm-train, which has no parser, from its help page."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any
from unittest.mock import patch

OTHER_ARGUMENTS = "all other TrainingArguments of transformers"
_FIRST_GROUP = re.compile(r"^\S.*:$", re.MULTILINE)
_HELP_ENTRY = re.compile(r"^  (--\S+(?: (?:false|N|X|TEXT|A B \.\.\.))?) *(.*)$")


@dataclass(frozen=True)
class Flag:
    """A flag or a positional argument: its names, what follows them, and its help text."""

    names: tuple[str, ...]
    value: str
    text: str


@dataclass
class Group:
    """Flags under a title."""

    title: str
    flags: list[Flag] = field(default_factory=list)


@dataclass
class Command:
    """A command or subcommand. ``epilog`` is preformatted text."""

    name: str
    description: str
    epilog: str
    groups: list[Group]
    subcommands: list[Command] = field(default_factory=list)


def argparse_command(program: str) -> Command:
    """Return the command of an entry point that uses argparse."""
    found: list[argparse.ArgumentParser] = []

    def keep(parser: argparse.ArgumentParser, file: Any = None) -> None:
        found.append(parser)

    with patch.object(argparse.ArgumentParser, "print_help", keep), contextlib.suppress(SystemExit):
        _call(program, ["--help"])
    return _from_parser(found[0])


def train_commands() -> list[Command]:
    """Return ``slm-train`` and ``slm-train dynamic``."""
    return [_from_help_page(words) for words in ([], ["dynamic"])]


def _call(program: str, words: list[str]) -> None:
    (entry,) = entry_points(group="console_scripts", name=program)
    entry.load()(words)


def _from_parser(parser: argparse.ArgumentParser) -> Command:
    groups = [Group(group.title or "options", list(_flags(group, parser))) for group in parser._action_groups]
    subparsers = {
        id(subparser): subparser
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for subparser in action.choices.values()
    }
    return Command(
        name=parser.prog,
        description=parser.description or "",
        epilog=(parser.epilog or "").replace("%(prog)s", parser.prog),
        groups=[group for group in groups if group.flags],
        subcommands=[_from_parser(subparser) for subparser in subparsers.values()],
    )


def _flags(group: argparse._ArgumentGroup, parser: argparse.ArgumentParser) -> Iterator[Flag]:
    formatter = parser._get_formatter()
    for action in group._group_actions:
        is_own = not isinstance(action, (argparse._HelpAction, argparse._SubParsersAction))
        if is_own and action.help is not argparse.SUPPRESS:
            metavar = formatter._get_default_metavar_for_optional(action)
            value = "" if action.nargs == 0 else formatter._format_args(action, metavar)
            text = formatter._expand_help(action) if action.help else ""
            yield Flag(tuple(action.option_strings), value, text)


def _from_help_page(words: list[str]) -> Command:
    short, complete = _help_page([*words, "--help"]), _help_page([*words, "--help_all"])
    opening = _FIRST_GROUP.split(short)[0]
    description, _, examples = opening.partition("\n\n")
    groups = list(_groups(short.removeprefix(opening)))
    known = {flag.names for group in groups for flag in group.flags}
    every = [flag for group in list(_groups(complete.removeprefix(opening))) for flag in group.flags]
    groups.append(Group(OTHER_ARGUMENTS, [flag for flag in every if flag.names not in known]))
    return Command(" ".join(["slm-train", *words]), description.partition(": ")[2], examples, groups)


def _help_page(words: list[str]) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output), patch.dict("os.environ", COLUMNS="110"):
        _call("slm-train", words)
    return output.getvalue()


def _groups(text: str) -> Iterator[Group]:
    group = Group("")
    for line in text.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            group = Group(line.removesuffix(":"))
            yield group
        elif entry := _HELP_ENTRY.match(line):
            name, _, value = entry[1].partition(" ")
            group.flags.append(Flag((name,), value, entry[2]))
        elif line.startswith("    ") and group.flags:
            last = group.flags.pop()
            group.flags.append(Flag(last.names, last.value, f"{last.text} {line.strip()}".strip()))
