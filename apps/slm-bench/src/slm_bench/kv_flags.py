"""The flags of ``slm-bench kv``."""

from __future__ import annotations

import argparse
from typing import Any


def add(commands: Any) -> None:
    """Add ``kv`` to the commands of a parser."""
    parser = commands.add_parser(
        "kv",
        help="what a key-value cache gains: generate with and without it, in turns",
        description="Generate greedily with the key-value cache on and off, in turns, and compare: tokens a second, "
        "time to first token, memory of the cache, share of the machine's memory bandwidth, and the tokens.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    flag = parser.add_argument
    flag("--model_path", default="sample", help="a folder, a name of the hub, or sample: the built-in base")
    flag("--adapter_path", help="the folder of an adapter to lay on it; it stays unmerged")
    flag("--prompt", default="Once upon a time", help="the text to continue")
    flag("--max_new_tokens", type=positive, default=128, help="tokens to generate, neither more nor fewer")
    flag("--lengths", type=lengths, metavar="N,N,...", help="measure these numbers of new tokens instead, and plot")
    flag("--batch_size", type=positive, default=1, help="copies of the prompt, generated side by side")
    flag("--rounds", type=positive, default=5, help="timed turns of each; medians are printed, after one to warm up")
    flag("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the weights")
    flag("--device", help="cpu or cuda; cuda where there is one if not given")
    flag("--threads", type=positive, help="threads of the CPU; the fastest number of a short probe if not given")
    flag("--json", metavar="FILE", help="write the figures here too")
    flag("--plot", metavar="FILE", default="outputs/kv", help="where --lengths plots, as .png and .svg")


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def lengths(text: str) -> list[int]:
    """Numbers parted by commas, in rising order."""
    return sorted({positive(part.strip()) for part in text.split(",")})
