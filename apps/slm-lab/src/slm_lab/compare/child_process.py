"""Running slm-train in a child process, with its log, its progress and signals.

Each run has its own process, so that its peak memory is measured alone and a crash does not end the comparison.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.markup import escape
from rich.status import Status

LOG_FILE = "train.log"
PROGRAM = (sys.executable, "-m", "slm_train.cli")
# Windows has no SIGHUP.
FORWARDED = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@dataclass
class SignalForwarder:
    """Forwards signals to the child process, and remembers the last one."""

    received: signal.Signals | None = None
    child: subprocess.Popen[str] | None = field(default=None, repr=False)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Signal handler. The child saves a checkpoint and exits on SIGINT and SIGTERM."""
        self.received = signal.Signals(number)
        if self.child and self.child.poll() is None:
            self.child.send_signal(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)


@contextmanager
def forward_signals() -> Iterator[SignalForwarder]:
    """Forward signals to the child process instead of ending this one."""
    forwarder = SignalForwarder()
    previous = {number: signal.signal(number, forwarder.handle) for number in FORWARDED}
    try:
        yield forwarder
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def run_slm_train(argv: Sequence[str], folder: Path, signals: SignalForwarder, console: Console) -> str | None:
    """Run ``slm-train`` with ``argv``, append its output to the log in ``folder``, and show its progress.

    Returns:
        The reason if it failed, else None.
    """
    with (
        (folder / LOG_FILE).open("a", encoding="utf-8") as log,
        console.status(f"{escape(folder.name)}: starting") as status,
    ):
        child = _start(argv)
        signals.child = child
        last_line = ""
        try:
            assert child.stdout
            for line in child.stdout:
                log.write(line)
                log.flush()
                last_line = line.strip() or last_line
                if line.startswith("step "):
                    _show_progress(line, folder.name, console, status)
            code = child.wait()
        finally:
            signals.child = None
            if child.poll() is None:
                child.terminate()
                child.wait()
    return None if code == 0 else _failure_reason(code, last_line)


def _start(argv: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*PROGRAM, *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
        # In this process group the terminal would send Ctrl-C to the child too, and slm-train exits without saving
        # on the second signal.
        start_new_session=True,
    )


def _show_progress(line: str, name: str, console: Console, status: Status) -> None:
    """Print evaluations; show other steps in the status line."""
    text = escape(" ".join(line.split()))
    status.update(f"{escape(name)}: {text}")
    if "evaluation:" in line:
        console.print(f"  {text}", style="dim", soft_wrap=True)


def _failure_reason(code: int, last_line: str) -> str:
    if code < 0:
        # Linux ends a process with SIGKILL (9, which Windows does not name) when memory runs out.
        hint = ", possibly because memory ran out" if code == -9 else ""
        return f"it was ended by {signal.Signals(-code).name}{hint}"
    return last_line.removeprefix("slm-train: ") or f"it ended with exit code {code}"
