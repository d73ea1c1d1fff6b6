"""A server in a child process, stopped with SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

TIMEOUT = 60  # seconds


@contextmanager
def serving(command: Sequence[str]) -> Iterator[str]:
    """Start a server and yield its URL when it is ready; on exit, SIGTERM must end it with exit code 0."""
    environment = os.environ | {"UV_NO_SYNC": "1"}  # `uv run` must not change the environment of the tests
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        try:
            assert process.stdout
            ready = next(line for line in process.stdout if line.startswith("ready: "))
            yield ready.removeprefix("ready: ").strip()
            process.send_signal(signal.SIGTERM)
            assert process.wait(TIMEOUT) == 0
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the whole group: `uv run` starts the server as its child
