"""``slm-train``: one sentence for a user's mistake, exit code 2; never a traceback for it."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence

from slm_train.flags import UsageError


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``slm-train`` with ``argv`` (the process's own by default); returns the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    in_a_group = _is_in_a_group()
    try:
        code = _run(given)
    except KeyboardInterrupt:
        print("slm-train: stopped", file=sys.stderr)
        return 130
    except _mistakes() as mistake:
        print(f"slm-train: {mistake}", file=sys.stderr)
        code = 2
    if _is_in_a_group() and not in_a_group:
        # Its threads would go down with the interpreter, in no order: now and then that aborts a process that is done.
        sys.modules["torch.distributed"].destroy_process_group()
    return code


def _run(argv: list[str]) -> int:
    _quiet_libraries()
    from slm_train.help_page import help_asked, help_page  # after the line above: these imports print
    from slm_train.parsing import parse

    if help_asked(argv):
        print(help_page(argv))
        return 0
    arguments = parse(argv)
    from slm_train.flow import run

    return run(arguments)


def _is_in_a_group() -> bool:
    """Whether this process is one of several that train together. Imports nothing."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def _mistakes() -> tuple[type[Exception], ...]:
    """What a user can get wrong, by the package that says so."""
    from slm_adapters import AdapterError
    from slm_data import DataError
    from slm_train.checkpoint import CheckpointError
    from slm_train.errors import UserError

    return (UsageError, UserError, DataError, AdapterError, CheckpointError)


def _quiet_libraries() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "critical")  # its errors reach the user in our words
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses an optional kernel as it is imported


if __name__ == "__main__":
    sys.exit(main())
