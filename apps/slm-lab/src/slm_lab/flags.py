"""The command line of ``slm-lab``: commands, flags and help texts."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from slm_adapters import add_completion
from slm_lab import __version__
from slm_lab.errors import LabError
from slm_lab.eval_flags import EVAL, EVAL_EXAMPLES, add_eval_flags
from slm_lab.modes import MODES
from slm_lab.variants import Variant, parse_variants

DESCRIPTION = "Compare the training modes of slm-train, evaluate models, and check what works on this machine."
COMPARE = """\
Train each mode under the same budget, each in its own process, and compare the results: a table in the terminal, a page
(compare.html) and the figures (compare.json) in --output_dir. Flags that are not listed here are passed to slm-train:
--train_file, --model_path, --block_size, --bf16 ... Finished runs are not trained again, and interrupted runs are
resumed: to continue a comparison, repeat the command."""
COMPARE_EXAMPLES = """\
examples:
  slm-lab compare --modes baseline,lora,butterfly --max_steps 200
  slm-lab compare --train_file "texts/*.txt" --model_path distilgpt2 --max_minutes 10 --seeds 3
  slm-lab compare --max_tokens 100000 --target_tokens_per_step 2048
  slm-lab compare --modes butterfly,butterfly:quality,lora:r=4,dora,oft --max_steps 200 --seeds 3
  slm-lab compare --modes butterfly,lora,dora,oft --match parameters --max_steps 200 --seeds 3

variants, MODE:OPTION:OPTION, with the flags of slm-train that they set:
  lora, qlora, dora           r=N (--lora_r), alpha=X (--lora_alpha); dora is lora with --use_dora
  butterfly, butterfly_block  quality or speed (--butterfly_preset), side=SIDE, stages=N, block_size=N
  oft                         block_size=N (--oft_block_size); PEFT's OFT
  all                         lr=X (--learning_rate)

exit code: 0 all modes trained; 1 a mode failed, the others are reported; 2 refused, nothing trained; 130 interrupted"""
PAGE = """\
Rebuild compare.html and compare.json from the run folders under FOLDER. The runs may be of slm-lab compare or of
slm-train, from this machine or another. Nothing is trained."""
RUNS = """\
List the run folders under FOLDER, one per line. Only the run.json of each is read, so that folders copied from other
machines are listed too."""
RUNS_EXAMPLES = """\
examples:
  slm-lab runs outputs/
  slm-lab runs outputs/ --sort bits_per_byte
  slm-lab runs outputs/ --sort tokens_per_second --descending --csv runs.csv"""
DOCTOR = """\
Report which parts of slm work on this machine, which work with limits, which are missing, and what to do about it. The
measurements take a few seconds; the model hub gets at most 5 seconds to answer."""
DOCTOR_EXAMPLES = "exit code: 0 everything essential works; 1 something essential is broken"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # argparse would print the usage and exit; a user's mistake is one sentence here.
        raise LabError(f"{message}; see {self.prog} --help")


def parse_command_line(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the words after ``slm-lab``.

    Returns:
        The arguments of the command. With ``compare``, ``passed_on`` holds the words that go to slm-train.

    Raises:
        LabError: For an unknown command or flag, or an invalid value.
    """
    arguments, unknown = build_parser().parse_known_args(argv)
    command = f"slm-lab {arguments.command}"
    if unknown and arguments.command != "compare":
        raise LabError(f"{command} has no flag {unknown[0]!r}; see {command} --help")
    arguments.passed_on = tuple(unknown)
    return arguments


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    parser = _Parser(prog="slm-lab", description=DESCRIPTION, epilog="slm-lab COMMAND --help shows examples.")
    parser.add_argument("--version", action="version", version=f"slm-lab {__version__}")
    add_completion(parser)
    commands = parser.add_subparsers(metavar="COMMAND", required=True, dest="command")
    # No abbreviations: argparse would read --mode as --modes, and any prefix of a flag that is meant for slm-train.
    options: Any = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    _add_compare(commands, options)
    page = commands.add_parser("page", help="rebuild the page from run folders", description=PAGE, **options)
    page.add_argument("folder", metavar="FOLDER", type=Path, help="folder that contains run folders")
    _add_runs(commands, options)
    evaluate = commands.add_parser("eval", help="evaluate models", description=EVAL, epilog=EVAL_EXAMPLES, **options)
    add_eval_flags(evaluate, integer_from)
    doctor = commands.add_parser(
        "doctor", help="check what works on this machine", description=DOCTOR, epilog=DOCTOR_EXAMPLES, **options
    )
    doctor.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _add_compare(commands: Any, options: Any) -> None:
    parser = commands.add_parser(
        "compare", help="train and compare modes", description=COMPARE, epilog=COMPARE_EXAMPLES, **options
    )
    add = parser.add_argument
    modes = ",".join(MODES)
    add(
        "--modes",
        type=parse_modes,
        default=tuple(Variant(mode) for mode in MODES),
        metavar="A,B",
        help=f"comma-separated modes or variants, such as lora:r=4. Default: {modes}",
    )
    _add_budget(parser)
    one_or_more, zero_or_more = integer_from(1), integer_from(0)
    add("--seeds", type=one_or_more, default=1, metavar="N", help="runs per mode, with --seed and the following seeds")
    add("--seed", type=zero_or_more, default=42, metavar="N", help="first seed. Default: %(default)s")
    add("--dataset", metavar="NAME", default=None, help="as in slm-train. Default: sample, the built-in corpus")
    add(
        "--output_dir",
        type=Path,
        default=Path("outputs/compare"),
        metavar="FOLDER",
        help="folder for the run folders and the page. Default: %(default)s",
    )
    add(
        "--match",
        choices=("parameters",),
        help="choose rank, block size or stages so that all methods train about as many parameters as --match_to",
    )
    add("--match_to", type=parse_modes, metavar="MODE", help="one of --modes. Default: the first butterfly")
    add("--again", action="store_true", help="train again, replacing existing runs")


def _add_budget(parser: argparse.ArgumentParser) -> None:
    budget = parser.add_argument_group("budget, one of").add_mutually_exclusive_group(required=True)
    count = integer_from(1)
    budget.add_argument("--max_steps", type=count, metavar="N", help="optimizer steps per mode, on the same rows")
    budget.add_argument("--max_tokens", type=count, metavar="N", help="predicted tokens per mode (slm-train dynamic)")
    budget.add_argument("--max_minutes", type=parse_minutes, metavar="M", help="minutes of training per mode")


def _add_runs(commands: Any, options: Any) -> None:
    parser = commands.add_parser("runs", help="list run folders", description=RUNS, epilog=RUNS_EXAMPLES, **options)
    add = parser.add_argument
    add("folder", metavar="FOLDER", type=Path, nargs="?", default=Path("outputs"), help="Default: %(default)s")
    add("--sort", metavar="COLUMN", help="sort by a column of the CSV file, in ascending order. Default: by folder")
    add("--descending", action="store_true", help="sort in descending order")
    add("--csv", metavar="FILE", help="write all columns to FILE; - writes to the terminal instead of the table")


def parse_modes(text: str) -> tuple[Variant, ...]:
    """Parse comma-separated modes and variants. Repeated ones count once."""
    try:
        return parse_variants(text)
    except LabError as error:
        raise argparse.ArgumentTypeError(str(error)) from None  # argparse would replace the message of a ValueError


def integer_from(minimum: int) -> Callable[[str], int]:
    """Return a parser of integers that are at least ``minimum``."""

    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least {minimum}")
        return int(text)

    return parse


def parse_minutes(text: str) -> float:
    """Parse a positive, finite number of minutes."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of minutes")
    return value
