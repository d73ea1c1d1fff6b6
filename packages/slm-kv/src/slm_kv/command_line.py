"""Flags and exit codes shared by command lines that load a model. Imports no torch, so that ``--help`` is instant."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from slm_kv.errors import KVError

MAX_TEXT_CHARACTERS = 1_000_000  # more than linear.quantisation_gate.MAX_TOKENS tokens
WEIGHTS = ("auto", "float32", "bfloat16", "q8", "q4")
CLOSED_OUTPUT = 141  # 128 + SIGPIPE, the exit code of other commands that are ended like this


class DefaultsHelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Appends a flag's default to its help text, unless the default is None, False or an empty list."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        has_default = not (action.default is None or action.default is False or action.default == [])
        return super()._get_help_string(action) if has_default else action.help


def run_command(program: str, run: Callable[[], int]) -> int:
    """Call ``run``, write what it printed, and return its exit code.

    It is 2 with one line on stderr for a KVError, 130 for Ctrl-C, and quietly CLOSED_OUTPUT if stdout's reader, such as
    ``head``, has gone.
    """
    try:
        try:
            return run()
        except KVError as error:
            print(f"{program}: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print(f"\n{program}: stopped", file=sys.stderr)
            return 130
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout once more at exit; without a valid target that would print an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_OUTPUT


def add_completion(parser: argparse.ArgumentParser, paths: Collection[str]) -> None:
    """Add ``--print_completion SHELL``, whose script completes the flags that ``paths`` names by files."""
    parser.add_argument(
        "--print_completion",
        action=_PrintCompletion,
        choices=("bash", "zsh", "tcsh"),
        const=tuple(paths),
        default=argparse.SUPPRESS,
        help="print a script for this shell, which completes flags, choices and paths",
    )


class _PrintCompletion(argparse.Action):
    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        import shtab  # only when a script is printed

        for action in parser._actions:
            if action.dest in self.const:
                action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab's way to mark an argument
        print(shtab.complete(parser, values))
        parser.exit()


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags whose values ``load`` and ``set_threads`` take."""
    add = parser.add_argument
    add(
        "--model_path", default="sample", help="a folder, a .gguf file, a name on the hub, or sample: the built-in base"
    )
    add("--adapter_path", help="folder of a PEFT adapter, such as slm-train writes; it stays unmerged")
    add_weights_flags(parser)
    add("--device", help="cpu, cuda, mps or xpu; the default is a GPU if there is one")
    add("--threads", type=positive_int, help="CPU threads; the default is the fastest number in a short probe")


def add_weights_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that ``weight_options`` reads."""
    add = parser.add_argument
    add(
        "--weights",
        choices=WEIGHTS,
        default="auto",
        help="number format of the weights; auto is a dtype, never quantised; q8 and q4 (8 and 4 bits, on a CPU) are "
        "used if they raise the perplexity of a text by at most 1 %% and 3 %%",
    )
    add("--weights_text", metavar="FILE", help="the text for q8 and q4; the default is a built-in one in English")
    add(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="dtype of weights and KV cache, if not given by --weights; auto: that of the checkpoint, or float32 where "
        "that would be slower",
    )


@dataclass(frozen=True)
class WeightOptions:
    """What the flags of ``add_weights_flags`` ask for.

    Attributes:
        dtype: The name for ``DtypeChoice``.
        weights: The format to quantise to, for ``create_engine``.
        gate_text: The text to measure it on; None is the built-in one.
    """

    dtype: str
    weights: Literal["q8", "q4"] | None = None
    gate_text: str | None = None


def weight_options(weights: str, weights_text: str | None, dtype: str) -> WeightOptions:
    """Interpret ``--weights``, ``--weights_text`` and ``--dtype``.

    Raises:
        KVError: they contradict each other, or the text cannot be read.
    """
    if weights != "auto" and dtype != "auto":
        raise KVError(f"--weights {weights} and --dtype {dtype} exclude each other; leave one of them out")
    if weights_text is not None and weights not in ("q8", "q4"):
        raise KVError(f"--weights_text is for --weights q8 and q4, not {weights}; leave it out")
    text = None if weights_text is None else read_weights_text(weights_text)
    formats: dict[str, Literal["q8", "q4"]] = {"q8": "q8", "q4": "q4"}
    named = dtype if weights in ("auto", *formats) else weights
    return WeightOptions(named, formats.get(weights), text)


def read_weights_text(file: str) -> str:
    """Read the beginning of the text file on which quantised weights are evaluated.

    Raises:
        KVError: the file cannot be read, or is not UTF-8 text.
    """
    try:
        with Path(file).open(encoding="utf-8") as lines:
            return lines.read(MAX_TEXT_CHARACTERS)
    except (OSError, UnicodeDecodeError) as error:
        raise KVError(f"--weights_text {file} cannot be read as a text: {error}") from error


def positive_int(text: str) -> int:
    """Parse a whole number of at least 1, as an argparse type."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)
