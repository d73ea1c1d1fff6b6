"""Commands in processes of their own, each forked from a server process that has imported the packages.

Starting a command from a shell takes ten seconds of CPU, most of it for imports. A forked process inherits the imported
modules and is otherwise independent. Variables that a library reads on import (HF_ENDPOINT, HF_HOME) have no effect in
it: tests of those fork a process that has imported torch only, or start a new interpreter.

All test processes share one server, which the first of them starts.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SERVER = "FORK_SERVER_OF_TESTS"  # the environment variable with the folder of the server's sockets


def share_server() -> None:
    """Let this process and those that it starts use one server, which ends with this process."""
    if SERVER in os.environ:
        return
    folder = tempfile.mkdtemp(prefix="slm-forked-")
    os.environ[SERVER] = folder
    owner = os.open(Path(folder, "owner"), os.O_RDWR | os.O_CREAT)
    fcntl.flock(owner, fcntl.LOCK_EX)
    Path(folder, "environment").write_text(json.dumps(dict(os.environ)))
    atexit.register(_remove, folder, os.getpid())


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


class Process:
    """A forked process."""

    def __init__(self, stage: str, job: dict[str, Any], output: int, errors: int) -> None:
        self._server = _connect(stage)
        socket.send_fds(self._server, [json.dumps(job).encode() + b"\n"], [output, errors])
        self._lines = self._server.makefile("rb", buffering=0)
        self._code: int | None = None
        self.pid = int(self._lines.readline())

    @property
    def exitcode(self) -> int | None:
        """The exit code; -N if signal N ended the process, None while it runs."""
        self.join(0)
        return self._code

    def is_alive(self) -> bool:
        return self.exitcode is None

    def join(self, timeout: float | None = None) -> None:
        """Wait until the process has ended, at most ``timeout`` seconds."""
        if self._code is not None:
            return
        self._server.settimeout(None)
        if timeout is not None and not _is_readable(self._server, timeout):
            return
        self._code = int(self._lines.readline())
        self._lines.close()
        self._server.close()

    def kill(self) -> None:
        """Send SIGKILL, unless the process has ended."""
        if self.is_alive():
            os.kill(self.pid, signal.SIGKILL)


def start(
    module: str,
    argv: Sequence[object],
    *,
    output: Path | str | int = os.devnull,
    errors: Path | str | int = os.devnull,
    folder: Path | str = "",
    **environment: str,
) -> Process:
    """Start ``main`` of ``module`` in a new process.

    Args:
        module: The module of a command, such as ``slm_train.cli``.
        argv: The words after the command's name.
        output: File or descriptor for the standard output.
        errors: File or descriptor for the standard error output.
        folder: The current directory of the process, that of this one by default.
        environment: Environment variables beside those of this process.
    """
    job = {"module": module, "argv": [module, *map(str, argv)]}
    return _start("commands", job, output, errors, folder, environment)


def run(module: str, argv: Sequence[object], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``main`` of ``module`` to its end and return its output, which is written to files in ``folder``."""
    return _finished({"module": module, "argv": [module, *map(str, argv)]}, "commands", folder, environment)


def run_program(
    program: str, argv: Sequence[object], folder: Path, *, imported: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the source ``program`` to its end, as ``python -c`` does, and return its output.

    Args:
        program: The source.
        argv: The words after it.
        folder: Where its output is written.
        imported: The last stage of ``fork_server.STAGES`` that is imported by then: "torch" or "transformers".
        environment: Environment variables beside those of this process.
    """
    return _finished({"program": program, "argv": ["-c", *map(str, argv)]}, imported, folder, environment)


def _finished(
    job: dict[str, Any], stage: str, folder: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    output, errors = folder / "output.txt", folder / "errors.txt"
    for file in (output, errors):
        file.write_text("")
    process = _start(stage, job, output, errors, "", environment)
    process.join(300)
    assert process.exitcode is not None, "it did not end within 300 seconds"
    return subprocess.CompletedProcess(job["argv"], process.exitcode, output.read_text(), errors.read_text())


def _start(
    stage: str,
    job: dict[str, Any],
    output: Path | str | int,
    errors: Path | str | int,
    folder: Path | str,
    environment: dict[str, str],
) -> Process:
    job |= {"folder": str(folder or Path.cwd()), "environment": os.environ | environment}
    opened = [target if isinstance(target, int) else _open(target) for target in (output, errors)]
    try:
        return Process(stage, job, *opened)
    finally:
        for file, target in zip(opened, (output, errors), strict=True):
            if file is not target:
                os.close(file)


def _open(path: Path | str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)  # appending: both may be the same file


def _is_readable(connection: socket.socket, timeout: float) -> bool:
    connection.settimeout(timeout or 1e-6)  # 0 would not block at all, and raise another error
    try:
        connection.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return False
    finally:
        connection.settimeout(None)
    return True


def _connect(stage: str) -> socket.socket:
    """Connect to the server, which is started if it does not run yet."""
    share_server()
    folder = Path(os.environ[SERVER])
    with (folder / "starting").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "listening").exists():
            _start_server(folder)
    server = socket.socket(socket.AF_UNIX)
    server.connect(str(folder / stage))
    return server


def _start_server(folder: Path) -> None:
    environment = json.loads((folder / "environment").read_text())  # not that of the test that comes first
    with (folder / "log.txt").open("a") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "slm_testing.fork_server", folder],
            cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    server.returncode = 0  # it is not waited for; without this, Popen warns
    end = time.monotonic() + 60
    while not (folder / "listening").exists():
        assert time.monotonic() < end, (folder / "log.txt").read_text()
        time.sleep(0.02)


def wait_for_line(process: Process, file: Path, beginning: str, seconds: float) -> str:
    """Wait for the first complete line of ``file`` that starts with ``beginning``, and return it."""
    deadline = time.monotonic() + seconds
    while True:
        is_alive = process.is_alive()  # before reading: then the file has all output of a process that has ended
        text = file.read_text() if file.exists() else ""
        for line in text.splitlines(keepends=True):
            if line.startswith(beginning) and line.endswith("\n"):
                return line.rstrip()
        assert is_alive, f"the process ended with {process.exitcode}:\n{text}"
        assert time.monotonic() < deadline, f"no line {beginning!r} within {seconds} seconds:\n{text}"
        time.sleep(0.02)
