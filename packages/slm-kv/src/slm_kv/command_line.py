"""What command lines over a model have in common: its flags, and how they end. No torch here: ``--help`` is instant."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from slm_kv.errors import KVError

READ_CHARACTERS = 1_000_000  # more than is measured


def exit_code(program: str, run: Callable[[], int]) -> int:
    """What ``run`` returns; 2 and one sentence for a user's mistake, 130 where the user stops it."""
    try:
        return run()
    except KVError as mistake:
        print(f"{program}: {mistake}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{program}: stopped", file=sys.stderr)
        return 130


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Which model, with which adapter, in what precision, where: what ``load`` and ``set_threads`` take."""
    flag = parser.add_argument
    flag("--model_path", default="sample", help="a folder, a name of the hub, or sample: the built-in base")
    flag("--adapter_path", help="the folder of a PEFT adapter, such as slm-train writes; it stays unmerged")
    flag("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of weights, keys and values")
    flag("--device", help="cpu or cuda; cuda where there is one if not given")
    flag("--threads", type=positive, help="threads of the CPU; the fastest number of a short probe if not given")


def int8_text(file: str) -> str:
    """The beginning of a text file, as much as 8 bits are measured on. Raises KVError for one that is none."""
    try:
        with Path(file).open(encoding="utf-8") as lines:
            return lines.read(READ_CHARACTERS)
    except (OSError, UnicodeDecodeError) as refused:
        raise KVError(f"--int8 {file} cannot be read as a text: {refused}") from refused


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)
