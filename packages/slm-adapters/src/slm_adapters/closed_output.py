"""Ending a command whose output nobody reads any more, such as ``slm-train ... | head``."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable

CLOSED_OUTPUT = 141  # 128 + SIGPIPE, the exit code of other commands that are ended like this


def end_with_output(run: Callable[[], int]) -> int:
    """Call ``run``, write what it printed, and return its exit code; CLOSED_OUTPUT if stdout's reader has gone."""
    try:
        try:
            return run()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_has_gone():
            raise
        # Python flushes stdout once more at exit; without a valid target that would print an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_OUTPUT


def _reader_has_gone() -> bool:
    """Whether it was stdout that is broken, not another pipe; without ``poll``, on Windows, it is taken for stdout."""
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
