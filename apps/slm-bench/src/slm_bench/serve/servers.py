"""A server as a group of processes of its own, on one core: started, held still while another is measured, ended."""

from __future__ import annotations

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

from slm_bench.serve.cores import bound
from slm_bench.serve.http import HOST
from slm_kv import KVError

START_SECONDS = 300.0
END_SECONDS = 60.0


@dataclass(frozen=True)
class Program:
    """How a server is started, where it says that it is ready, and what its clients send. ``more``: fields of a
    request that keep it from ending early and have it count tokens."""

    name: str
    command: Sequence[str]
    model: str
    ready: str = "/health"
    environment: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)


class Server:
    """``program`` on ``core``, listening on a free port of the loopback device. It is stopped by ``stop``."""

    def __init__(self, program: Program, logs: str, core: int | None) -> None:
        self.program, self.port = program, free_port()
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

    @property
    def name(self) -> str:
        return self.program.name

    def wait_until_ready(self) -> None:
        """Raises KVError where it ends instead, or takes too long."""
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready():
            if self._process.poll() is not None:
                raise KVError(f"{self.name} ended before it was ready: {self._last_words()}")
            if time.monotonic() > deadline:
                raise KVError(f"{self.name} was not ready after {START_SECONDS:.0f} s: {self._last_words()}")
            time.sleep(0.1)

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Let it run meanwhile; before and after it is held still, so that no idle server takes time of another."""
        os.killpg(self._process.pid, signal.SIGCONT)
        yield
        os.killpg(self._process.pid, signal.SIGSTOP)

    def cpu_seconds(self) -> float:
        """What all its processes have taken so far."""
        return sum(sum(process.cpu_times()[:2]) for process in self.processes())

    def rss(self) -> int:
        """Bytes of memory that its processes hold."""
        return sum(process.memory_info().rss for process in self.processes())

    def processes(self) -> list[psutil.Process]:
        """It and its children."""
        main = psutil.Process(self._process.pid)
        return [main, *main.children(recursive=True)]

    def terminate(self) -> None:
        """Ask it to end, as a supervisor does."""
        self._process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float) -> int | None:
        """Its exit code; None where it has not ended by then."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """End it and whatever it has started."""
        group = self._process.pid
        if self._process.poll() is None:
            os.killpg(group, signal.SIGCONT)
            self.terminate()
            self.wait(END_SECONDS)
        if group_alive(group):
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

    def _last_words(self) -> str:
        said = self._log.read_text(errors="replace").strip().splitlines()
        errors = [line for line in said if "Error" in line]
        return (errors or said or ["it said nothing"])[-1].strip()


@contextmanager
def running(program: Program, logs: str, core: int | None) -> Iterator[Server]:
    """A server that is ready, and ended afterwards. Raises KVError where it does not start."""
    server = Server(program, logs, core)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def group_alive(group: int) -> bool:
    """Whether any process of a group is left; one that has ended and waits to be collected counts."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
