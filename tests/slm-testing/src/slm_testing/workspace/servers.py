"""A server in a process of its own, from its start to its end by SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

PATIENCE = 60  # seconds


@contextmanager
def serving(command: Sequence[str]) -> Iterator[str]:
    """The address once it is ready. At the end SIGTERM has to make it end with exit code 0."""
    environment = os.environ | {"UV_NO_SYNC": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        try:
            assert process.stdout
            ready = next(line for line in process.stdout if line.startswith("ready: "))
            yield ready.removeprefix("ready: ").strip()
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
