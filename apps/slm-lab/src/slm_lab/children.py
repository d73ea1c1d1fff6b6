"""Runs of slm-train, each in a process of its own: its memory is its own, and so is what becomes of it."""

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
from typing import Any

from rich.console import Console
from rich.markup import escape

LOG = "train.log"
PROGRAM = (sys.executable, "-m", "slm_train.cli")
FORWARDED = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@dataclass
class Signals:
    """What this process was told to do: the child is told the same, and ends in its orderly way."""

    received: signal.Signals | None = None
    child: subprocess.Popen[str] | None = field(default=None, repr=False)

    def note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        if self.child and self.child.poll() is None:
            self.child.send_signal(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)


@contextmanager
def forwarded() -> Iterator[Signals]:
    """Signals that would end this process go to the child instead, which starts in a session of its own: a terminal
    would tell both, and a second Ctrl-C means at once."""
    signals = Signals()
    before = {number: signal.signal(number, signals.note) for number in FORWARDED}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train(argv: Sequence[str], folder: Path, signals: Signals, console: Console) -> str | None:
    """Run ``slm-train`` with ``argv``; all it says is kept in ``folder``. Returns why it failed, None if it did not."""
    with (
        (folder / LOG).open("a", encoding="utf-8") as log,
        console.status(f"{escape(folder.name)}: starting") as status,
    ):
        child = _start(argv)
        signals.child = child
        last = ""
        try:
            assert child.stdout
            for line in child.stdout:
                log.write(line)
                log.flush()
                last = line.strip() or last
                if line.startswith("step "):
                    _show(line, folder.name, console, status)
            code = child.wait()
        finally:
            signals.child = None
            if child.poll() is None:
                child.terminate()
                child.wait()
    return None if code == 0 else _reason(code, last)


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
        start_new_session=True,
    )


def _show(line: str, name: str, console: Console, status: Any) -> None:
    """Evaluations stay, other lines are there until the next."""
    said = escape(" ".join(line.split()))
    status.update(f"{escape(name)}: {said}")
    if "evaluation:" in line:
        console.print(f"  {said}", style="dim", soft_wrap=True)


def _reason(code: int, last: str) -> str:
    if code < 0:
        return f"it was ended by {signal.Signals(-code).name}" + (", as for want of memory" if code == -9 else "")
    return last.removeprefix("slm-train: ") or f"it ended with code {code}"
