"""Entry point of ``slm-lab``: dispatch to the commands, and exit codes.

A user's mistake prints one sentence and exits with 2, without a traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from slm_adapters import end_with_output
from slm_lab.errors import LabError
from slm_lab.flags import parse_command_line


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``slm-lab``.

    Args:
        argv: Words after the program's name; default: those of this process.

    Returns:
        The exit code: 0, 1 (a mode failed, or something essential is broken), 2 (refused), 130 (interrupted)
        or 141 (nobody reads the output).
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    return end_with_output(lambda: _run(sys.argv[1:] if argv is None else argv))


def _run(argv: Sequence[str]) -> int:
    try:
        return _run_command(parse_command_line(argv))
    except KeyboardInterrupt:
        print("slm-lab: interrupted", file=sys.stderr)
        return 130
    except LabError as error:
        print(f"slm-lab: {error}", file=sys.stderr)
        return 2


def _run_command(arguments: argparse.Namespace) -> int:
    # Each command is imported only when it runs, so that --help, --version and mistakes respond at once.
    if arguments.command == "compare":
        from slm_lab.compare.command import compare

        return compare(arguments)
    if arguments.command == "page":
        from slm_lab.compare.command import rebuild_page

        return rebuild_page(arguments)
    if arguments.command == "runs":
        from slm_lab.runs.listing import list_runs

        return list_runs(arguments)
    if arguments.command == "eval":
        from slm_lab.evaluation.command import evaluate

        return evaluate(arguments)
    from slm_lab.doctor.command import doctor

    return doctor(arguments)


if __name__ == "__main__":
    sys.exit(main())
