"""Flags of ``slm-bench adapters``."""

import argparse
from typing import Any

from slm_bench.errors import BenchError
from slm_bench.harness.arguments import new_command
from slm_kv import positive_int

MEASUREMENTS = ("training", "decode", "quality")
QUALITY_FLAGS = ("dataset", "own_dataset", "methods", "ranks", "steps", "seeds", "runs")


def add_adapters(commands: Any) -> None:
    """Add ``adapters`` to the commands of a parser."""
    parser = new_command(
        commands,
        "adapters",
        help="PEFT's methods and butterflies: cost of training and decoding, and quality",
        description="Run training steps with PEFT's LoRA, OFT, HRA and BOFT and with butterflies on one base model, in "
        "alternating rounds: step time over LoRA's, memory, trainable parameters; then decode one token through the "
        "adapted layers. The exit code is 1 if a butterfly does not start with the base's logits, a rotation is not "
        "orthogonal, merging changes the logits, or the base's weights changed.",
    )
    flag = parser.flag
    flag("model_path", help="a folder or a model name on the hub; default: sample, with --full distilgpt2's shape")
    flag("full", action="store_true", help="all methods, 7 rounds, 256 tokens; --quality searches learning rates")
    flag("quality", action="store_true", help="also measure what each method learns in equally many steps")
    parser.only(MEASUREMENTS, default="training,decode")
    flag("four_bit", action="store_true", help="also decode over a base in 4 bits")
    flag("target_modules", nargs="+", default=[], metavar="NAME", help="layers to adapt; default: all linear layers")
    flag("batch_size", type=positive_int, default=4, help="rows of a training step")
    flag("tokens", type=positive_int, help="tokens of a row; default: 128, with --full 256")
    flag("rounds", help="timed rounds of each method, after one to warm up; default: 5, with --full 7")
    for name in ("bf16", "device", "threads"):
        flag(name)
    flag("dataset", help="texts for --quality, or conversations, a built-in set; default: harbour, a built-in corpus")
    flag("own_dataset", metavar="DATASET", help="texts that the base was trained on, to measure what it forgets")
    flag("methods", metavar="NAME,...", help="methods of --quality besides LoRA, such as dora; a wrong name lists all")
    flag(
        "ranks",
        type=ranks,
        metavar="R,...",
        help="ranks of LoRA whose sizes are matched; default: 1,4, with --full 1,4,16",
    )
    flag("steps", type=positive_int, help="training steps of --quality; default: 24, with --full 48")
    flag("seeds", type=positive_int, help="runs of each method of --quality; default: 1, with --full 3")
    flag("runs", metavar="FILE", help="keep finished training runs of --quality in this file, and do not repeat them")
    flag("json")
    flag("plot", default="outputs/adapters")


def ranks(text: str) -> tuple[int, ...]:
    """Return ascending ranks from their numbers, separated by commas."""
    return tuple(sorted({positive_int(part.strip()) for part in text.split(",")}))


def requested_measurements(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Return the measurements to run. Raises BenchError for a flag that would be ignored."""
    names = arguments.only or ("training", "decode")
    requested = tuple(name for name in MEASUREMENTS if name in names or (name == "quality" and arguments.quality))
    ignored = [name for name in QUALITY_FLAGS if getattr(arguments, name) is not None and "quality" not in requested]
    if ignored:
        raise BenchError(f"--{ignored[0]} goes with --quality; add it")
    if arguments.four_bit and "decode" not in requested:
        raise BenchError("--four_bit is about decoding, which --only leaves out; add decode to --only")
    return requested
