"""A command of a README, parsed by the program that it calls, which is stopped before it does anything."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any
from unittest.mock import patch

from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser

from slm_lab import parse_command_line
from slm_serve.wire.generate import GenerateRequest
from slm_testing.workspace.readme_blocks import ROOT
from slm_testing.workspace.wrapper_lines import program_line
from slm_train import parse_arguments as parse

# Flags of uv run, and how many words follow them.
UV_RUN = {"--isolated": 0, "--all-packages": 0, "--package": 1, "--extra": 1, "--group": 1, "--with": 1}
OF_OTHERS = {"uv", "pip", "printf", "pytest", "vllm"}  # theirs to check


class Parsed(Exception):
    """The program takes the command line."""


def check(words: Sequence[str]) -> None:
    """Raises AssertionError for a command that its program refuses, or that calls none of a README."""
    program, *rest = words
    if program == "uv" and rest[:1] == ["run"]:
        check(_behind_flags(rest[1:]))
    elif program.startswith("scripts/") and (ROOT / program).is_file():
        check(program_line(ROOT / program, rest) if program.endswith(".sh") else ["uv"])
    elif program == "torchrun":
        _check_launched(get_args_parser().parse_args(rest))
    elif words[:2] == ["accelerate", "launch"]:
        _check_launched(launch_command_parser().parse_args(rest[1:]))
    elif program == "python":
        assert (ROOT / rest[0]).is_file(), f"there is no {rest[0]}"
    elif program == "curl":
        GenerateRequest.model_validate_json(rest[rest.index("-d") + 1])
    elif program not in OF_OTHERS:
        _check_program(program, rest)


def _behind_flags(words: Sequence[str]) -> Sequence[str]:
    """The program that uv run starts, and its words."""
    at = 0
    while words[at].startswith("-"):
        at += 1 + UV_RUN[words[at]]
    return words[at:]


def _check_launched(given: argparse.Namespace) -> None:
    assert given.module
    assert given.training_script == "slm_train.cli"
    parse(given.training_script_args)


def _check_program(program: str, argv: Sequence[str]) -> None:
    if program == "slm-train":
        parse(argv)
        return
    if program == "slm-lab":
        given = parse_command_line(argv)
        if given.command == "compare":
            parse(given.passed_on)
        return
    found = entry_points(group="console_scripts", name=program)
    assert found, f"there is no program {program}"
    with _stopped_after_parsing():
        try:
            code = next(iter(found)).load()(list(argv))
        except Parsed:
            return
    raise AssertionError(f"{program} {' '.join(argv)}: exit code {code}")


@contextmanager
def _stopped_after_parsing() -> Iterator[None]:
    """Programs of argparse end once they have read their flags; slm-serve once it has checked their values too."""
    parse_args: Callable[..., Any] = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser: argparse.ArgumentParser, *given: Any, **named: Any) -> Any:
        found = parse_args(parser, *given, **named)
        if parser.prog == "slm-serve":
            return found
        raise Parsed

    def stop(settings: Any) -> Any:
        raise Parsed

    with patch.object(argparse.ArgumentParser, "parse_args", parse_and_stop), patch("slm_serve.server.serve", stop):
        yield
