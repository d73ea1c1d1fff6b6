"""``slm-bench``: parse arguments, run one command, report errors as one sentence."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from slm_adapters import add_completion, end_with_output
from slm_bench import __version__
from slm_bench.adapters.arguments import add_adapters
from slm_bench.all.arguments import add_all
from slm_bench.errors import BenchError
from slm_bench.harness.arguments import Command
from slm_bench.kv.arguments import add_kv
from slm_bench.report.arguments import add_report
from slm_bench.serve.arguments import add_serve
from slm_bench.train.arguments import add_train

# Modules with measure(arguments), whose result is presented, and modules with run(arguments).
_BENCHMARKS = {
    "kv": "kv.cache_benchmark",
    "kv --engine": "kv.engine.benchmark",
    "adapters": "adapters.benchmark",
    "train": "train.benchmark",
    "serve": "serve.benchmark",
}
_PROGRAMS = {"all": "all.run_all", "report": "report.write_report"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``slm-bench`` with ``argv``, by default the arguments of this process.

    Returns:
        0; 1 if a guarantee was broken or a benchmark of ``all`` failed; 2 for a user's mistake; 130 on Ctrl-C; 141 if
        nobody reads the output any more.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    return end_with_output(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    parser = Command(prog="slm-bench", description="Measure what the slm packages claim.")
    parser.add_argument("--version", action="version", version=f"slm-bench {__version__}")
    add_completion(parser)
    commands = parser.add_subparsers(dest="command", required=True)
    for add_command in (add_kv, add_adapters, add_train, add_serve, add_all, add_report):
        add_command(commands)
    arguments = parser.parse_args(argv)
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        print("\nslm-bench: stopped", file=sys.stderr)
        return 130
    except ValueError as error:  # the base class of the errors of all packages; their own classes take time to import
        if not isinstance(error, BenchError) and not isinstance(error, _sibling_errors()):
            raise
        print(f"slm-bench: {error}", file=sys.stderr)
        return 2


def _run(arguments: argparse.Namespace) -> int:
    """Run the command. Its module is imported here, so that ``--help`` and a mistyped flag import no torch."""
    name = "kv --engine" if arguments.command == "kv" and arguments.engine else arguments.command
    if name in _PROGRAMS:
        exit_code: int = import_module(f"slm_bench.{_PROGRAMS[name]}").run(arguments)
        return exit_code
    benchmark = import_module(f"slm_bench.{_BENCHMARKS[name]}")
    from slm_bench.harness.presenter import present

    return present(benchmark.measure(arguments), arguments.json, arguments.plot)


def _sibling_errors() -> tuple[type[Exception], ...]:
    from slm_adapters import AdapterError
    from slm_data import DataError
    from slm_kv import KVError
    from slm_serve import ServeError
    from slm_train import TrainError

    return AdapterError, DataError, KVError, ServeError, TrainError


if __name__ == "__main__":
    sys.exit(main())
