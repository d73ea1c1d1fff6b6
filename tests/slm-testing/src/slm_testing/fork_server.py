"""A process that imports libraries once and forks a process for each command: ``python -m slm_testing.fork_server``.

It has a process for each stage, which listens on a socket of that name. Each stage is forked from the one before it and
has imported more. All end when the process that wants them, which holds a lock on the file ``owner``, has ended.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import json
import os
import selectors
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

# Nothing of a later stage may be imported in an earlier one: tests check the order of imports.
STAGES = {
    "torch": ("torch",),
    "transformers": ("accelerate", "transformers.modeling_utils", "transformers.models.gpt2.modeling_gpt2"),
    # What the commands import when they run; the last one names what is imported on first use.
    "commands": (
        "slm_train.flow", "slm_train.training_run", "slm_train.run_recording", "slm_serve.server",
        "slm_testing.preloaded",
    ),
}  # fmt: skip
LONGEST_REQUEST = 1 << 16  # bytes that are read at once
CANNOT_FLUSH = 120  # Python's exit code when stdout cannot be written at exit


def serve_stages(folder: Path) -> None:
    """Listen on all sockets, so that clients may connect at once; then import and fork, stage by stage."""
    listeners = {name: socket.socket(socket.AF_UNIX) for name in STAGES}
    for name, listener in listeners.items():
        listener.bind(str(folder / name))
        listener.listen(100)
    (folder / "listening").touch()
    while listeners:
        name, *later = listeners
        for module in STAGES[name]:
            import_module(module)
        # Otherwise each process would look at all of this in its garbage collections, and copy the memory it is in.
        gc.collect()
        gc.freeze()
        if later and not os.fork():
            listeners.pop(name).close()
            continue
        for other in later:
            listeners[other].close()
        Stage(listeners[name], folder / "owner").serve()
        return


class Stage:
    """Forks processes with the modules that are imported by now."""

    def __init__(self, listener: socket.socket, owner: Path) -> None:
        self._listener = listener
        self._owner = owner.open()
        self._clients: dict[int, socket.socket] = {}
        self._woken, self._waker = socket.socketpair()
        for end in (self._woken, self._waker):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # so that Python writes to the file below
        signal.set_wakeup_fd(self._waker.fileno())

    def serve(self) -> None:
        """Fork a process for each client, and tell it the process's id and exit code."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while not self._owner_has_ended():
                for key, _ in selector.select(timeout=1):
                    if key.fileobj is self._listener:
                        self._start_process()
                    else:
                        self._woken.recv(LONGEST_REQUEST)
                self._report_ended_processes()

    def _owner_has_ended(self) -> bool:
        try:
            fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _start_process(self) -> None:
        client, _ = self._listener.accept()
        request, files, *_ = socket.recv_fds(client, LONGEST_REQUEST, 2)
        while request and not request.endswith(b"\n"):
            request += client.recv(LONGEST_REQUEST)
        sys.stdout.flush()
        process = os.fork()
        if not process:
            self._become_process(client, request, files)
        for file in files:
            os.close(file)
        self._clients[process] = client
        client.sendall(f"{process}\n".encode())

    def _become_process(self, client: socket.socket, request: bytes, files: list[int]) -> NoReturn:
        code = 1
        try:
            job = self._prepare(client, request, files)
            code = run_to_its_end(lambda: run_job(job))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code & 0xFF)

    def _prepare(self, client: socket.socket, request: bytes, files: list[int]) -> dict[str, Any]:
        """Give up what belongs to the server, and take the output, the folder and the variables of the request."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._owner.close()
        for end in (client, self._listener, self._woken, self._waker, *self._clients.values()):
            end.close()
        for number, file in enumerate(files, 1):
            os.dup2(file, number)
            os.close(file)
        job: dict[str, Any] = json.loads(request)
        os.environ.clear()
        os.environ.update(job["environment"])
        os.chdir(job["folder"])
        sys.argv = job["argv"]
        return job

    def _report_ended_processes(self) -> None:
        while True:
            try:
                process, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not process:
                return
            if client := self._clients.pop(process, None):
                with client:
                    try:
                        client.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
                    except OSError:
                        continue  # the client does not wait for it


def run_job(job: dict[str, Any]) -> object:
    """Run ``main`` of a module, or a program, in this process."""
    if "module" in job:
        return import_module(job["module"]).main()
    exec(compile(job["program"], "<string>", "exec"), {"__name__": "__main__"})
    return None


def run_to_its_end(run: Callable[[], object]) -> int:
    """Call ``run`` and what is to be called at exit; return the exit code that the interpreter would have."""
    try:
        sys.exit(run())  # type: ignore[arg-type]  # whatever a program returns
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        if code == 1 and stop.code != 1:
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # as the interpreter does: waits for threads
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except OSError as error:
        print(error, file=sys.stderr)
        code = CANNOT_FLUSH
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    serve_stages(Path(sys.argv[1]))
