"""Child processes: finding an interpreter, ending with the parent, and reporting why one ended."""

import importlib.util
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from slm_bench.errors import BenchError


@contextmanager
def sigterm_as_exception() -> Iterator[None]:
    """Make SIGTERM raise SystemExit within the block, so that context managers end all child processes."""
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def find_interpreter(flag: str, path: str | None, modules: Sequence[str]) -> str | None:
    """Return the interpreter for a peer: ``path`` if given, this one if it has ``modules``, otherwise None.

    Raises:
        BenchError: ``path``, the value of ``--flag``, does not exist.
    """
    if path is None:
        return sys.executable if all(map(importlib.util.find_spec, modules)) else None
    if not shutil.which(path):
        raise BenchError(f"--{flag} {path}: there is no such interpreter; give the path of a Python executable")
    return path


def last_error(log: str) -> str:
    """Return the last line of ``log`` that names an error, or its last line if none does."""
    lines = log.strip().splitlines()
    errors = [line for line in lines if "Error" in line]
    return (errors or lines or ["it printed nothing"])[-1].strip()
