"""Checking README commands: each is parsed by its program, which stops after parsing."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any
from unittest.mock import patch

import jsonschema
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser

from slm_lab import parse_command_line
from slm_serve import Settings, create_app
from slm_testing.workspace.readme_blocks import ROOT
from slm_testing.workspace.wrapper_lines import program_line
from slm_train import parse_arguments

# Flags of uv run, and the number of words that follow each.
UV_RUN_FLAGS = {"--isolated": 0, "--all-packages": 0, "--package": 1, "--extra": 1, "--group": 1, "--with": 1}
SERVER = "http://localhost:8000"
# Not ours: their flags are not checked.
OTHER_PROGRAMS = {
    "chmod",
    "docker",
    "kubectl",
    "pip",
    "printf",
    "pytest",
    "python3",
    "uv",
    "vllm",
}  # not ours: their flags are not checked


class Parsed(Exception):
    """Raised when a program has accepted its command line, so that it does not run."""


def check(words: Sequence[str]) -> None:
    """Raise AssertionError for a command that its program refuses, or whose program does not exist."""
    program, *rest = words
    if program == "uv" and rest[:1] == ["run"]:
        check(_without_uv_flags(rest[1:]))
    elif program.startswith("scripts/") and (ROOT / program).is_file():
        check(program_line(ROOT / program, rest) if program.endswith(".sh") else ["uv"])
    elif program == "torchrun":
        _check_launched(get_args_parser().parse_args(rest))
    elif words[:2] == ["accelerate", "launch"]:
        _check_launched(launch_command_parser().parse_args(rest[1:]))
    elif program == "python":
        assert (ROOT / rest[0]).is_file(), f"there is no {rest[0]}"
    elif program == "curl":
        _check_request(rest)
    elif program not in OTHER_PROGRAMS:
        _check_program(program, rest)


def _check_request(words: Sequence[str]) -> None:
    """Check the path and the body of a request to slm-serve against its OpenAPI schema."""
    (url,) = (word for word in words if word.startswith(SERVER))
    schema = create_app(Settings()).openapi()
    operation = schema["paths"][url.removeprefix(SERVER)]["post"]
    body = operation["requestBody"]["content"]["application/json"]["schema"]
    jsonschema.validate(json.loads(words[words.index("-d") + 1]), body | {"components": schema["components"]})


def _without_uv_flags(words: Sequence[str]) -> Sequence[str]:
    """Return the program that uv run starts, and its arguments."""
    start = 0
    while words[start].startswith("-"):
        start += 1 + UV_RUN_FLAGS[words[start]]
    return words[start:]


def _check_launched(launcher: argparse.Namespace) -> None:
    assert launcher.module
    assert launcher.training_script == "slm_train.cli"
    parse_arguments(launcher.training_script_args)


def _check_program(program: str, argv: Sequence[str]) -> None:
    if program == "slm-train":
        parse_arguments(argv)
        return
    if program == "slm-lab":
        arguments = parse_command_line(argv)
        if arguments.command == "compare":
            parse_arguments(arguments.passed_on)
        return
    programs = entry_points(group="console_scripts", name=program)
    assert programs, f"there is no program {program}"
    with _stopped_after_parsing():
        try:
            code = next(iter(programs)).load()(list(argv))
        except Parsed:
            return
    raise AssertionError(f"{program} {' '.join(argv)}: exit code {code}")


@contextmanager
def _stopped_after_parsing() -> Iterator[None]:
    """Make argparse programs stop after reading their flags, and slm-serve after it has validated the values."""
    parse_args: Callable[..., Any] = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> Any:
        arguments = parse_args(parser, *args, **kwargs)
        if parser.prog == "slm-serve":
            return arguments
        raise Parsed

    def stop(settings: Any) -> Any:
        raise Parsed

    with patch.object(argparse.ArgumentParser, "parse_args", parse_and_stop), patch("slm_serve.server.serve", stop):
        yield
