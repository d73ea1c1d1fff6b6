"""Commands in processes of their own, each forked from one that has imported everything.

A start by the shell spends 15 seconds of a slow CPU on imports before it does anything. What is imported is what a
start by the shell would find; what the process does, how it ends and what it leaves is its own. A variable that is
read by a library as it is imported (HF_ENDPOINT, HF_HOME) comes too late here: that needs a start by the shell.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

_forks = get_context("forkserver")
_forks.set_forkserver_preload(["slm_train.arguments", "slm_train.flow", "slm_serve.server", "slm_kv.engine"])


def _become(module: str, argv: list[str], environment: dict[str, str], said: str, errors: str) -> None:
    os.environ.update(environment)
    for number, path in ((1, said), (2, errors)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)  # both may be one file
        os.dup2(file, number)
        os.close(file)
    sys.argv = [module, *argv]
    sys.exit(import_module(module).main())


def start(
    module: str,
    argv: Sequence[object],
    *,
    said: Path | str = os.devnull,
    errors: Path | str = os.devnull,
    **environment: str,
) -> Any:
    """The process of ``main`` of ``module``, which writes to the files ``said`` and ``errors``."""
    told = [str(word) for word in argv]
    process = _forks.Process(target=_become, args=(module, told, environment, str(said), str(errors)))
    process.start()
    return process


def run(module: str, argv: Sequence[object], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The same to its end; ``folder`` is where what it said is kept meanwhile."""
    said, errors = folder / "said.txt", folder / "errors.txt"
    for file in (said, errors):
        file.write_text("")
    process = start(module, argv, said=said, errors=errors, **environment)
    process.join(300)
    assert process.exitcode is not None, "it did not end in 300 seconds"
    command = [module, *map(str, argv)]
    return subprocess.CompletedProcess(command, process.exitcode, said.read_text(), errors.read_text())


def wait_for_line(process: Any, file: Path, beginning: str, seconds: float) -> str:
    """The first whole line of ``file`` that begins so, once it is written."""
    end = time.monotonic() + seconds
    while True:
        alive = process.is_alive()  # before the file: what a dead process wrote is there
        text = file.read_text() if file.exists() else ""
        for line in text.splitlines(keepends=True):
            if line.startswith(beginning) and line.endswith("\n"):
                return line.rstrip()
        assert alive, f"it ended with {process.exitcode}:\n{text}"
        assert time.monotonic() < end, f"no line {beginning!r} in {seconds} seconds:\n{text}"
        time.sleep(0.02)
