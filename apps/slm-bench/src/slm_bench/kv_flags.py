"""The flags of ``slm-bench kv``."""

from __future__ import annotations

import argparse
from typing import Any

from slm_kv import KVError, add_model_flags
from slm_kv import positive_int as positive

OF_THE_CACHE = ("prompt", "max_new_tokens", "lengths", "batch_size", "packed")


def add(commands: Any) -> None:
    """Add ``kv`` to the commands of a parser."""
    parser = commands.add_parser(
        "kv",
        help="what a key-value cache gains: generate with and without it, in turns",
        description="Generate greedily with the key-value cache on and off, in turns, and compare: tokens a second, "
        "time to first token, memory of the cache, share of the machine's memory bandwidth, and the tokens.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_model_flags(parser)
    flag = parser.add_argument
    flag("--prompt", default="Once upon a time", help="the text to continue")
    flag("--max_new_tokens", type=positive, default=128, help="tokens to generate, neither more nor fewer")
    flag("--lengths", type=lengths, metavar="N,N,...", help="measure these numbers of new tokens instead, and plot")
    flag("--batch_size", type=positive, default=1, help="copies of the prompt, generated side by side")
    flag("--packed", action="store_true", help="on a CPU, prepack the linear layers of both as the engine does")
    flag(
        "--engine",
        action="store_true",
        help="measure the engine instead: 32 mixed requests, one alone and eight alike, against transformers one by "
        "one, in padded batches and by generate_batch, and vLLM; a known prefix; attention over pages",
    )
    flag("--vllm_python", metavar="FILE", help="the interpreter of an environment with vLLM; this one if it has it")
    flag("--rounds", type=positive, help="timed turns of each after one to warm up; 5, with --engine 3")
    flag("--json", metavar="FILE", help="write the figures here too")
    flag("--plot", metavar="FILE", help="where to plot, as .png and .svg; outputs/kv, with --engine outputs/kv_engine")
    parser.set_defaults(idle={name: parser.get_default(name) for name in OF_THE_CACHE})


def check(given: argparse.Namespace) -> None:
    """Raises KVError for a flag that would be ignored."""
    ignored = [name for name, default in given.idle.items() if given.engine and getattr(given, name) != default]
    if ignored:
        raise KVError(f"--{ignored[0]} does not go with --engine, which has requests of its own; leave one of them out")
    if given.vllm_python and not given.engine:
        raise KVError("--vllm_python goes with --engine")
    if given.plot and not (given.engine or given.lengths):
        raise KVError("--plot goes with --lengths or --engine: there is no curve of one length")


def lengths(text: str) -> list[int]:
    """Numbers parted by commas, in rising order."""
    return sorted({positive(part.strip()) for part in text.split(",")})
