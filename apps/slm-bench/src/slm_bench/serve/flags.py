"""The flags of ``slm-bench serve``. No torch here: ``--help`` is instant."""

from __future__ import annotations

import argparse
from typing import Any

from slm_bench.names import of_names
from slm_kv import positive_int as positive

MEASUREMENTS = ("throughput", "overhead", "overload", "disconnects", "sigterm")


def add(commands: Any) -> None:
    """Add ``serve`` to the commands of a parser."""
    parser = commands.add_parser(
        "serve",
        help="slm-serve beside vLLM's server and transformers serve, and what it promises under stress",
        description="Load slm-serve, vLLM's server and transformers serve with the same requests, in turns; compare "
        "slm-serve with its engine without HTTP; then overload it, leave it in the middle of answers, and stop it "
        "with requests in flight. The exit code is 1 if one of the promises of the last three is not kept.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    flag = parser.add_argument
    flag("--model_path", default="sample", help="a folder, a name of the hub, or sample: the built-in base")
    flag("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of weights, keys and values")
    flag("--rounds", type=positive, default=3, help="timed turns of each server, after a short one to warm up")
    flag("--requests", type=positive, default=64, help="requests of a turn, of 64 tokens in and 64 out")
    flag("--concurrency", type=positive, default=16, help="requests at once, and texts that slm-serve runs at once")
    flag("--only", type=of_names(MEASUREMENTS), metavar="NAME,...", help=f"of {','.join(MEASUREMENTS)} only these; all")
    flag("--full", action="store_true", help="a minute of overload and 1,000 clients that leave; 10 s and 200")
    flag(
        "--vllm_python",
        metavar="FILE",
        help="the interpreter of an environment with vLLM, for its server and load generator; this one if it has it",
    )
    flag(
        "--transformers_python",
        metavar="FILE",
        help="the interpreter of an environment with transformers[serving]; this one if it has what that needs",
    )
    flag("--json", metavar="FILE", help="write the figures here too, with every sample")
    flag("--plot", metavar="FILE", help="plot the throughput here, as .png and .svg")
