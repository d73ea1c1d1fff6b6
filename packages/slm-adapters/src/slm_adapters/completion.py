"""``--print_completion SHELL``: the script with which a shell completes flags, choices and paths of a command."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

SHELLS = ("bash", "zsh", "tcsh")
COMPLETION_FLAG = "--print_completion"
# Flags and arguments that are paths, by the end of their name or by what the help page calls their value.
_PATH_NAMES = ("_path", "_file", "_dir", "_python", "_root", "_text")
_PATH_VALUES = {"FILE", "FOLDER", "RUN", "OUT"}


def add_completion(parser: argparse.ArgumentParser) -> None:
    """Add ``--print_completion`` to the parser of a command."""
    parser.add_argument(
        COMPLETION_FLAG,
        action=_PrintCompletion,
        choices=SHELLS,
        default=argparse.SUPPRESS,
        help="print a script for this shell, which completes flags, choices and paths",
    )


def completion_script(parser: argparse.ArgumentParser, shell: str, paths: Collection[str] = ()) -> str:
    """Return the script that completes the command of ``parser`` in ``shell``, one of SHELLS.

    ``paths`` names flags whose values are paths, which neither their type nor their name shows.
    """
    import shtab  # only when a script is printed

    for action in _actions(parser):
        if action.choices is None and action.nargs != 0 and (action.dest in paths or _is_path(action)):
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab's way to mark an argument
    return str(shtab.complete(parser, shell))


class _PrintCompletion(argparse.Action):
    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        print(completion_script(parser, values))
        parser.exit()


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the arguments of a parser and of its commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
        else:
            yield action


def _is_path(action: argparse.Action) -> bool:
    return action.type is Path or action.metavar in _PATH_VALUES or action.dest.endswith(_PATH_NAMES)
