"""``--print_completion SHELL``: the script with which a shell completes the flags of ``slm-train``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from slm_adapters import COMPLETION_FLAG, SHELLS, completion_script
from slm_train.command_line.budget_flags import DYNAMIC, is_hidden
from slm_train.command_line.flag_choices import choose_from
from slm_train.command_line.flag_parser import PATHS, FlagParser
from slm_train.command_line.generated.config_schema import OWN_CHOICES, SCHEMA_FLAG
from slm_train.command_line.parsing import flag_parser
from slm_train.errors import UsageError, shown


def completion(argv: Sequence[str]) -> str:
    """Return the script that a command line with ``--print_completion SHELL`` asks for. Raises UsageError."""
    words = [part for word in argv for part in word.split("=", 1)]
    shell = "".join(words[words.index(COMPLETION_FLAG) + 1 :][:1])
    if shell not in SHELLS:
        raise UsageError(f"{COMPLETION_FLAG} {shown(shell)}: {choose_from(shell, SHELLS)}")
    return completion_script(_parser(), shell, paths={*PATHS, "config"})


def _parser() -> FlagParser:
    """Return a parser of both loops: the second is the command ``dynamic``."""
    parser, dynamic = flag_parser(dynamic=False), flag_parser(dynamic=True)
    for action in (*parser._actions, *dynamic._actions):
        action.choices = action.choices or OWN_CHOICES.get(action.dest)
    for action in dynamic._actions:
        if is_hidden(action.dest):
            action.help = argparse.SUPPRESS
    for one in (parser, dynamic):
        one.add_argument("--help_all", action="store_true", help="show all flags")
        one.add_argument(SCHEMA_FLAG, action="store_true", help="print the JSON schema of files for --config")
    parser.add_argument("--version", action="store_true", help="show the version")
    parser.add_argument(COMPLETION_FLAG, choices=SHELLS, help="print a script for this shell")
    commands = parser.add_subparsers(parser_class=argparse.ArgumentParser)
    commands.add_parser(DYNAMIC, parents=[dynamic], add_help=False, help="train by token budget")
    return parser
