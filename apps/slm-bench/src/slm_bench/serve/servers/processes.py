"""A server under test as a process group on one core: started, suspended while others are measured, stopped."""

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from slm_bench.errors import BenchError
from slm_bench.harness.processes import last_error
from slm_bench.serve.client.http_client import HOST
from slm_bench.serve.cores import bound

START_SECONDS = 300.0
STOP_SECONDS = 60.0


@dataclass(frozen=True)
class Program:
    """How to start a server and what to send it."""

    name: str
    command: Sequence[str]
    model: str  # its name in requests
    ready: str = "/health"  # path that answers 200 once the server is ready
    environment: Mapping[str, str] = field(default_factory=dict)
    request_fields: Mapping[str, Any] = field(default_factory=dict)  # prevent an early end, request the token count


class Server:
    """A running ``program`` on ``core``, listening on a free port of the loopback interface; end it with ``stop``."""

    def __init__(self, program: Program, logs: str, core: int | None) -> None:
        self.program, self.name, self.port = program, program.name, _free_port()
        self._log = Path(logs) / f"{program.name.replace(' ', '_')}_{self.port}.log"
        with self._log.open("w") as log, bound(core):
            self._process = subprocess.Popen(
                [*program.command, "--host", HOST, "--port", str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | program.environment,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Poll until the server is ready. Raises BenchError if it ends or takes longer than ``START_SECONDS``."""
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready():
            if self._process.poll() is not None:
                raise BenchError(f"{self.name} ended before it was ready: {self._last_error()}")
            if time.monotonic() > deadline:
                raise BenchError(f"{self.name} was not ready after {START_SECONDS:.0f} s: {self._last_error()}")
            time.sleep(0.1)

    @contextmanager
    def resumed(self) -> Iterator[None]:
        """Resume the server within the block, then suspend it, so that an idle server takes no CPU time from others."""
        os.killpg(self._process.pid, signal.SIGCONT)
        yield
        os.killpg(self._process.pid, signal.SIGSTOP)

    def cpu_seconds(self) -> float:
        """Return the CPU time of all processes of the server so far."""
        return sum(sum(process.cpu_times()[:2]) for process in self.processes())

    def rss(self) -> int:
        """Return the resident memory of all processes of the server in bytes."""
        return sum(process.memory_info().rss for process in self.processes())

    def processes(self) -> list[psutil.Process]:
        """Return the main process of the server and all descendants."""
        main = psutil.Process(self._process.pid)
        return [main, *main.children(recursive=True)]

    def terminate(self) -> None:
        """Send SIGTERM, as a supervisor does."""
        self._process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float) -> int | None:
        """Wait for the server to end. Returns its exit code, or None if it is still running after ``seconds``."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """End the server and all processes that it started."""
        group = self._process.pid
        if self._process.poll() is None:
            os.killpg(group, signal.SIGCONT)  # a suspended process does not handle SIGTERM
            self.terminate()
            self.wait(STOP_SECONDS)
        if group_exists(group):
            os.killpg(group, signal.SIGKILL)
        self._process.wait()

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=5)
        try:
            connection.request("GET", self.program.ready)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):  # it does not listen yet
            return False
        finally:
            connection.close()

    def _last_error(self) -> str:
        return last_error(self._log.read_text(errors="replace"))


@contextmanager
def running(program: Program, logs: str, core: int | None) -> Iterator[Server]:
    """Start a server, wait until it is ready, and stop it on exit. Raises BenchError if it does not start."""
    server = Server(program, logs, core)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


def group_exists(group: int) -> bool:
    """Return whether a process group still has a process, zombies included."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
