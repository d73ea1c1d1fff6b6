"""The flags of ``slm-lab``. Nothing heavy here: ``--help`` is instant."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from slm_lab.errors import LabError

ABOUT = "The modes of slm-train side by side, and what a machine can do."
COMPARE = """\
Train each mode under the same budget, each in a process of its own, and put them side by side: a table here, one page
(compare.html) and the figures (compare.json) in --output_dir. Flags that are not listed here go to slm-train as they
are: --train_file, --model_path, --block_size, --bf16 ... What is done is not done again: the same command goes on where
it was stopped."""
COMPARE_EXAMPLES = """\
examples:
  slm-lab compare --modes baseline,lora,butterfly --max_steps 200
  slm-lab compare --train_file "texts/*.txt" --model_path distilgpt2 --max_minutes 10 --seeds 3
  slm-lab compare --max_tokens 100000 --target_tokens_per_step 2048

exit code: 0 all trained; 1 a mode failed, the others are on the page; 2 refused, nothing trained; 130 stopped"""
PAGE = """\
Make compare.html and compare.json anew from the run folders under FOLDER, of slm-lab compare or of slm-train, also
those that were copied from other machines. Nothing is trained."""
RUNS = """\
The run folders under a folder, one a line, also those that were copied from other machines. Of each only run.json is
read."""
RUNS_EXAMPLES = """\
examples:
  slm-lab runs outputs/
  slm-lab runs outputs/ --sort bits_per_byte
  slm-lab runs outputs/ --sort tokens_per_second --descending --csv runs.csv"""
DOCTOR = """\
What of slm works on this machine, what works within limits, what is missing, and what to do about it. It measures for a
few seconds, and asks the model hub for at most five."""
DOCTOR_EXAMPLES = "exit code: 0 what is needed is there; 1 something essential is broken"

MODES = ("baseline", "lora", "qlora", "butterfly", "butterfly_block")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence; argparse would print its usage before it."""
        raise LabError(f"{message}; see {self.prog} --help")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line; ``passed_on``, of ``compare``, is what goes to slm-train. Raises LabError."""
    given, rest = parser().parse_known_args(argv)
    if rest and given.command != "compare":
        raise LabError(f"{rest[0]!r} is no flag of slm-lab {given.command}; see slm-lab {given.command} --help")
    given.passed_on = tuple(rest)
    return given


def parser() -> argparse.ArgumentParser:
    """Of all commands."""
    made = _Parser(prog="slm-lab", description=ABOUT, epilog="slm-lab COMMAND --help shows examples.")
    commands = made.add_subparsers(metavar="COMMAND", required=True, dest="command")
    layout: Any = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    _add_compare(commands, layout)
    page = commands.add_parser("page", help="the page anew, from run folders", description=PAGE, **layout)
    page.add_argument("folder", metavar="FOLDER", type=Path, help="a folder with run folders")
    _add_runs(commands, layout)
    doctor = commands.add_parser(
        "doctor", help="what works on this machine", description=DOCTOR, epilog=DOCTOR_EXAMPLES, **layout
    )
    doctor.add_argument("--json", action="store_true", help="print JSON")
    return made


def _add_compare(commands: Any, layout: Any) -> None:
    compare = commands.add_parser(
        "compare", help="train modes side by side", description=COMPARE, epilog=COMPARE_EXAMPLES, **layout
    )
    flag = compare.add_argument
    flag(
        "--modes",
        type=modes,
        default=MODES,
        metavar="A,B",
        help=f"modes, by commas. Default: all: {','.join(MODES)}",
    )
    budget = compare.add_argument_group("budget, one of").add_mutually_exclusive_group(required=True)
    budget.add_argument("--max_steps", type=count, metavar="N", help="optimizer steps of each mode, on the same rows")
    budget.add_argument("--max_tokens", type=count, metavar="N", help="predicted tokens: slm-train dynamic")
    budget.add_argument("--max_minutes", type=minutes, metavar="M", help="minutes of training of each mode")
    flag("--seeds", type=count, default=1, metavar="N", help="runs of each mode: --seed and the following numbers")
    flag("--seed", type=number, default=42, metavar="N", help="the first seed. Default: %(default)s")
    flag("--dataset", metavar="NAME", default=None, help="as of slm-train. Default: sample, the built-in corpus")
    flag(
        "--output_dir",
        type=Path,
        default=Path("outputs/compare"),
        metavar="FOLDER",
        help="a run folder of each mode goes here, and the page. Default: %(default)s",
    )
    flag("--again", action="store_true", help="train anew what is there already")


def _add_runs(commands: Any, layout: Any) -> None:
    runs = commands.add_parser("runs", help="a table of run folders", description=RUNS, epilog=RUNS_EXAMPLES, **layout)
    flag = runs.add_argument
    flag("folder", metavar="FOLDER", type=Path, nargs="?", default=Path("outputs"), help="Default: %(default)s")
    flag("--sort", metavar="COLUMN", help="order by a column of the CSV file, smallest first. Default: by folder")
    flag("--descending", action="store_true", help="largest first")
    flag("--csv", metavar="FILE", help="write every column here; - for the terminal, in place of the table")


def modes(text: str) -> tuple[str, ...]:
    """Names parted by commas, each once, in the order given."""
    asked = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [name for name in asked if name not in MODES]
    if unknown or not asked:
        named = repr(unknown[0]) if unknown else repr(text)
        raise argparse.ArgumentTypeError(f"{named} is none of {', '.join(MODES)}")
    return asked


def number(text: str) -> int:
    """A whole number of at least 0."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 0")
    return int(text)


def count(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def minutes(text: str) -> float:
    """A length of time above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of minutes above 0")
    return value
