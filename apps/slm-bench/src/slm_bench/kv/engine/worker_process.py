"""A contender in a child process: one line of JSON for each request and each reply."""

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from slm_bench.errors import BenchError
from slm_bench.harness.processes import last_error

MEGABYTE = 1_000_000


class IllegalInstruction(BenchError):
    """A program was compiled for a CPU with more instructions than this one has, or than the system allows."""


class WorkerProcess:
    """A child process that is started once and answers requests on its standard input.

    Args:
        program: What it runs, for error messages.
        command: Its command line. The first line that it prints is ``{"version": ...}``, when it is ready.
        log: The file for its standard error.
        environment: Variables besides those of this process.

    Attributes:
        version: The version that it reported.
        start_seconds: CPU time until it was ready.

    Raises:
        BenchError: it ended before it was ready.
    """

    def __init__(self, program: str, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self._program, self._log = program, log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | environment,
            )
        try:
            self.version: str = self._read()["version"]
        except BenchError:
            self.close()
            raise
        times = psutil.Process(self._process.pid).cpu_times()
        self.start_seconds = float(times.user + times.system)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request and return the reply. Raises BenchError if the process ended."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the process ended; _read reports why
            print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._read()

    def memory(self) -> float:
        """Resident memory of the process in megabytes."""
        return float(psutil.Process(self._process.pid).memory_info().rss) / MEGABYTE

    def close(self) -> None:
        """Close the standard input of the process, which ends it; kill it if it is still running after a minute."""
        try:
            self._process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            message: dict[str, Any] = json.loads(line)
            return message
        if self._process.wait() == -signal.SIGILL:
            raise IllegalInstruction(
                f"{self._program} used an instruction that this machine lacks; build it for this machine"
            )
        raise BenchError(f"{self._program} ended: {last_error(self._log.read_text(errors='replace'))}")
