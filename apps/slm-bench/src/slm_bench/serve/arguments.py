"""Flags of ``slm-bench serve``."""

from typing import Any

from slm_bench.harness.arguments import SAMPLE, new_command
from slm_kv import positive_int

MEASUREMENTS = ("throughput", "overhead", "overload", "disconnects", "abuse", "sigterm")


def add_serve(commands: Any) -> None:
    """Add ``serve`` to the commands of a parser."""
    parser = new_command(
        commands,
        "serve",
        help="slm-serve next to vLLM's server and transformers serve, and its guarantees under stress",
        description="Send the same requests to slm-serve, vLLM's server and transformers serve in alternating rounds; "
        "compare slm-serve with its engine without HTTP; then overload it, disconnect in the middle of answers, attack "
        "it in five ways, and stop it with requests in flight. The exit code is 1 if a guarantee of the last four is "
        "broken.",
    )
    flag = parser.flag
    flag("model_path", default=SAMPLE)
    flag("dtype")
    flag("rounds", default=3, help="timed rounds of each server, after a short one to warm up")
    flag("requests", type=positive_int, default=64, help="requests of a round, of 64 prompt tokens and 64 new ones")
    flag("concurrency", type=positive_int, default=16, help="concurrent requests, and sequences that slm-serve runs")
    parser.only(MEASUREMENTS)
    flag("full", action="store_true", help="60 s of overload and 1,000 disconnects instead of 10 s and 200")
    flag("vllm_python")
    flag(
        "transformers_python",
        metavar="FILE",
        help="Python interpreter of an environment with transformers[serving]; default: this interpreter, if it has it",
    )
    flag("json")
    flag("plot")
