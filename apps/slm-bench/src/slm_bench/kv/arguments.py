"""Flags of ``slm-bench kv``."""

import argparse
from typing import Any

from slm_bench.errors import BenchError
from slm_bench.harness.arguments import new_command
from slm_kv import add_model_flags, positive_int, weight_options

SECTIONS = ("engine", "llama")  # of the benchmark of the engine
CACHE_FLAGS = ("prompt", "max_new_tokens", "lengths", "batch_size", "packed")


def add_kv(commands: Any) -> None:
    """Add ``kv`` to the commands of a parser."""
    parser = new_command(
        commands,
        "kv",
        help="generation with and without the KV cache; with --engine, slm-kv's engine next to its peers",
        description="Generate greedily with the key-value cache on and off, in alternating rounds, and compare tokens "
        "per second, time to first token, memory of the cache, share of the memory bandwidth, and the tokens.",
    )
    add_model_flags(parser)
    flag = parser.flag
    flag("prompt", default="Once upon a time", help="text to continue")
    flag("max_new_tokens", type=positive_int, default=128, help="number of tokens to generate")
    flag("lengths", type=counts, metavar="N,N,...", help="measure these numbers of new tokens instead, and plot them")
    flag("batch_size", type=positive_int, default=1, help="number of copies of the prompt in a batch")
    flag("packed", action="store_true", help="on a CPU, prepack the linear layers as the engine does")
    flag(
        "engine",
        action="store_true",
        help="measure the engine instead: 32 mixed requests, a single one, and a batch of eight, next to transformers "
        "(one by one, in padded batches, generate_batch) and vLLM; prefix caching; attention over pages; and next to "
        "llama.cpp, on the same weights in the dtype, in q8 and in q4; contenders that cannot serve the model are left "
        "out",
    )
    flag("vllm_python")
    flag("llama_python")
    parser.only(SECTIONS, "both, of --engine")
    flag("requests", type=counts, metavar="N,N,...", help="simultaneous requests next to llama.cpp; default: 1,8,16")
    flag("rounds", help="timed rounds of each contender, after one to warm up; default: 5, with --engine 3")
    flag("json")
    flag("plot", help="write the plot to FILE.png and FILE.svg; default: outputs/kv, with --engine outputs/kv_engine")
    parser.set_defaults(cache_defaults={name: parser.get_default(name) for name in CACHE_FLAGS})


def check_flags(arguments: argparse.Namespace) -> None:
    """Raise BenchError for a flag that would be ignored; set ``--plot`` and ``weight_options``."""
    arguments.weight_options = weight_options(arguments.weights, arguments.weights_text, arguments.dtype)
    arguments.dtype = arguments.weight_options.dtype
    if arguments.weight_options.weights and not (arguments.engine or arguments.packed):
        raise BenchError(f"--weights {arguments.weights} goes with --engine or --packed; add one of them")
    changed = [name for name, default in arguments.cache_defaults.items() if getattr(arguments, name) != default]
    if arguments.engine and changed:
        raise BenchError(f"--{changed[0]} does not go with --engine, which has its own requests; omit one of them")
    for name in ("vllm_python", "llama_python", "only", "requests"):
        if getattr(arguments, name) and not arguments.engine:
            raise BenchError(f"--{name} goes with --engine; add it")
    if arguments.plot and not (arguments.engine or arguments.lengths):
        raise BenchError("--plot goes with --lengths or --engine; a single length is not plotted")
    if arguments.engine or arguments.lengths:
        arguments.plot = arguments.plot or ("outputs/kv_engine" if arguments.engine else "outputs/kv")


def counts(text: str) -> list[int]:
    """Parse numbers separated by commas; return them in ascending order."""
    return sorted({positive_int(part.strip()) for part in text.split(",")})
