"""Processes that write checkpoints until they are killed.

A module for ``forked``: ``main`` takes "folder" and a run folder, or "file", a file and the first number to write.
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

import slm_testing.forked as forked
from slm_train.checkpoints.files.atomic_write import atomic_file, atomic_folder, remove_leftovers
from slm_train.checkpoints.retention import latest_complete, rotate

COPIES = 30_000  # of its number in each file


def main() -> None:
    kind, path, *first = sys.argv[1:]
    if kind == "folder":
        _write_folders(Path(path))
    else:
        _write_file(Path(path), int(first[0]))


def _write_folders(run: Path) -> None:
    newest = latest_complete(run, print)
    remove_leftovers(run)
    for step in itertools.count(int(newest.name.rpartition("-")[2]) if newest else 1):
        for _ in range(2):
            with atomic_folder(run / f"checkpoint-{step}") as temporary:
                for name in ("model", "optimizer"):
                    (temporary / name).write_bytes(str(step).encode() * COPIES)
            print(step, flush=True)
        rotate(run, 2, None)


def _write_file(file: Path, first: int) -> None:
    for step in itertools.count(first):
        with atomic_file(file) as temporary:
            temporary.write_bytes(str(step).encode() * COPIES)
        print(step, flush=True)


def write_and_kill(words: list[object], output: Path, wait: float) -> int:
    """Run ``main`` with ``words`` and kill it ``wait`` seconds after its first number; return the last one.

    Args:
        words: The words after the command's name.
        output: File for what it prints.
        wait: In seconds.
    """
    output.unlink(missing_ok=True)
    process = forked.start(__name__, words, output=output)
    forked.wait_for_line(process, output, "", 60)
    time.sleep(wait)
    process.kill()
    process.join()
    return int([line for line in output.read_text().splitlines(keepends=True) if line.endswith("\n")][-1])
