"""Flags and exit codes shared by command lines that load a model. Imports no torch, so that ``--help`` is instant."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from slm_kv.errors import KVError

MAX_INT8_TEXT_CHARACTERS = 1_000_000  # more than linear.int8_gate.MAX_TOKENS tokens


class DefaultsHelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Appends a flag's default to its help text, unless the default is None, False or an empty list."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        has_default = not (action.default is None or action.default is False or action.default == [])
        return super()._get_help_string(action) if has_default else action.help


def run_command(program: str, run: Callable[[], int]) -> int:
    """Call ``run`` and return its exit code; 2 with one line on stderr for a KVError, 130 for Ctrl-C."""
    try:
        return run()
    except KVError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{program}: stopped", file=sys.stderr)
        return 130


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags whose values ``load`` and ``set_threads`` take."""
    add = parser.add_argument
    add(
        "--model_path", default="sample", help="a folder, a .gguf file, a name on the hub, or sample: the built-in base"
    )
    add("--adapter_path", help="folder of a PEFT adapter, such as slm-train writes; it stays unmerged")
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="dtype of weights and KV cache")
    add("--device", help="cpu or cuda; the default is cuda if available")
    add("--threads", type=positive_int, help="CPU threads; the default is the fastest number in a short probe")


def read_int8_text(file: str) -> str:
    """Read the beginning of the text file on which 8-bit weights are evaluated.

    Raises:
        KVError: the file cannot be read, or is not UTF-8 text.
    """
    try:
        with Path(file).open(encoding="utf-8") as lines:
            return lines.read(MAX_INT8_TEXT_CHARACTERS)
    except (OSError, UnicodeDecodeError) as error:
        raise KVError(f"--int8 {file} cannot be read as a text: {error}") from error


def positive_int(text: str) -> int:
    """Parse a whole number of at least 1, as an argparse type."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)
