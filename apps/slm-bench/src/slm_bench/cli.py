"""``slm-bench``: one sentence for a user's mistake, exit code 2; never a traceback for it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from slm_bench import kv_flags
from slm_bench.serve import flags as serve_flags
from slm_kv.command_line import exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``slm-bench`` with ``argv`` (the process's own by default); returns the exit code."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    parser = argparse.ArgumentParser(prog="slm-bench", description="Measure what the packages of slm claim.")
    commands = parser.add_subparsers(dest="command", required=True)
    kv_flags.add(commands)
    serve_flags.add(commands)
    given = parser.parse_args(argv)
    return exit_code("slm-bench", lambda: _run(given))


def _run(given: argparse.Namespace) -> int:
    if given.command == "serve":
        from slm_bench.serve import bench as serve

        return serve.run(given)
    kv_flags.check(given)
    if given.engine:
        from slm_bench.engine import bench as engine

        return engine.run(given)
    from slm_bench import kv

    return kv.run(given)


if __name__ == "__main__":
    sys.exit(main())
