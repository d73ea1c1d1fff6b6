"""A server in a child process, stopped with SIGTERM, or in a thread of this process."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import uvicorn

from slm_serve import Settings, create_app

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


@contextmanager
def serving_in_thread(settings: Settings) -> Iterator[str]:
    """Start a server in this process and yield its URL when it is ready."""
    app = create_app(settings)
    web_server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    thread = threading.Thread(target=web_server.run)
    thread.start()
    try:
        end = time.monotonic() + TIMEOUT
        while not (web_server.started and app.state.service.unavailable_reason is None):
            assert time.monotonic() < end, app.state.service.unavailable_reason
            time.sleep(0.05)
        yield f"http://127.0.0.1:{web_server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        web_server.should_exit = True
        thread.join()
