"""``slm-bench``: one sentence for a user's mistake, exit code 2; never a traceback for it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from slm_bench import every_flags, kv_flags
from slm_bench.adapters import flags as adapters_flags
from slm_bench.report import flags as report_flags
from slm_bench.serve import flags as serve_flags
from slm_bench.train import flags as train_flags
from slm_kv import run_command as exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``slm-bench`` with ``argv`` (the process's own by default); returns the exit code."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    parser = argparse.ArgumentParser(prog="slm-bench", description="Measure what the packages of slm claim.")
    commands = parser.add_subparsers(dest="command", required=True)
    for flags in (kv_flags, adapters_flags, train_flags, serve_flags, every_flags, report_flags):
        flags.add(commands)
    given = parser.parse_args(argv)
    return exit_code("slm-bench", lambda: _run(given))


def _run(given: argparse.Namespace) -> int:
    """Imports what the command needs, and no more: ``--help`` is instant."""
    if given.command == "adapters":
        from slm_bench.adapters import bench as adapters

        return adapters.run(given)
    if given.command == "train":
        from slm_bench.train import bench as train

        return train.run(given)
    if given.command == "serve":
        from slm_bench.serve import bench as serve

        return serve.run(given)
    if given.command == "all":
        from slm_bench import every

        return every.run(given)
    if given.command == "report":
        from slm_bench.report import bench as report

        return report.run(given)
    return _kv(given)


def _kv(given: argparse.Namespace) -> int:
    kv_flags.check(given)
    if given.engine:
        from slm_bench.engine import bench as engine

        return engine.run(given)
    from slm_bench import kv

    return kv.run(given)


if __name__ == "__main__":
    sys.exit(main())
