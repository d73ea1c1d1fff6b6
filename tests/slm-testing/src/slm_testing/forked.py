"""Commands in processes of their own, each forked from a server process that has imported the packages.

Starting a command from a shell takes 15 seconds on a slow CPU, most of it for imports. A forked process inherits the
imported modules and is otherwise independent. Variables that a library reads on import (HF_ENDPOINT, HF_HOME) have no
effect in it: tests of those start a new interpreter.
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

_context = get_context("forkserver")
# The modules that commands import when they run; the last one freezes the heap.
_COMMANDS = ["slm_train.flow", "slm_train.training_run", "slm_train.run_recording", "slm_serve.server"]
_context.set_forkserver_preload([*_COMMANDS, "transformers.models.gpt2.modeling_gpt2", "slm_testing.preloaded"])


def _run_main(module: str, argv: list[str], environment: dict[str, str], folder: str, output: str, errors: str) -> None:
    os.environ.update(environment)
    os.chdir(folder)
    for number, path in ((1, output), (2, errors)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)  # appending: both may be the same file
        os.dup2(file, number)
        os.close(file)
    sys.argv = [module, *argv]
    sys.exit(import_module(module).main())


def start(
    module: str,
    argv: Sequence[object],
    *,
    output: Path | str = os.devnull,
    errors: Path | str = os.devnull,
    folder: Path | str = "",
    **environment: str,
) -> Any:
    """Start ``main`` of ``module`` in a new process.

    Args:
        module: The module of a command, such as ``slm_train.cli``.
        argv: The words after the command's name.
        output: File for the standard output.
        errors: File for the standard error output.
        folder: The current directory of the process, that of this one by default.
        environment: Environment variables.
    """
    words = [str(word) for word in argv]
    arguments = (module, words, environment, str(folder or Path.cwd()), str(output), str(errors))
    process = _context.Process(target=_run_main, args=arguments)
    process.start()
    return process


def run(module: str, argv: Sequence[object], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``main`` of ``module`` to its end and return its output, which is written to files in ``folder``."""
    output, errors = folder / "output.txt", folder / "errors.txt"
    for file in (output, errors):
        file.write_text("")
    process = start(module, argv, output=output, errors=errors, **environment)
    process.join(300)
    assert process.exitcode is not None, "it did not end within 300 seconds"
    command = [module, *map(str, argv)]
    return subprocess.CompletedProcess(command, process.exitcode, output.read_text(), errors.read_text())


def wait_for_line(process: Any, file: Path, beginning: str, seconds: float) -> str:
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
