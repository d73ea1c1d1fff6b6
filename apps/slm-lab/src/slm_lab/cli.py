"""``slm-lab``: one sentence for a user's mistake, exit code 2; never a traceback for it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from slm_lab import flags
from slm_lab.errors import LabError


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``slm-lab`` with ``argv`` (the process's own by default); returns the exit code."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        given = flags.parse(sys.argv[1:] if argv is None else argv)
        code = _run(given)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("slm-lab: stopped", file=sys.stderr)
        return 130
    except LabError as mistake:
        print(f"slm-lab: {mistake}", file=sys.stderr)
        return 2
    return code


def _run(given: argparse.Namespace) -> int:
    """Each command's module is imported when it is asked for: ``--help`` is instant."""
    if given.command == "compare":
        from slm_lab.compare import compare

        return compare(given)
    if given.command == "page":
        from slm_lab.compare import remake

        return remake(given)
    if given.command == "runs":
        from slm_lab.listing import list_runs

        return list_runs(given)
    from slm_lab.doctor.examination import examine

    return examine(given)


if __name__ == "__main__":
    sys.exit(main())
