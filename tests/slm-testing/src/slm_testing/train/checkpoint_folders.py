"""Writing small checkpoint folders, and intercepting the functions of ``os`` that change the disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from slm_train.checkpoints.files.atomic_write import atomic_folder
from slm_train.checkpoints.retention import rotate


def save(run: Path, step: int, content: str = "", keep: int | None = None) -> Path:
    """Write ``checkpoint-<step>`` of two files and rotate; return its folder. The content is ``step`` by default."""
    target = run / f"checkpoint-{step}"
    with atomic_folder(target) as temporary:
        (temporary / "model.safetensors").write_text(f"weights {content or step}")
        (temporary / "inner").mkdir()
        (temporary / "inner" / "optimizer.pt").write_text(f"moments {content or step}")
    rotate(run, keep, None)
    return target


def contents(checkpoint: Path) -> str:
    """Return the content that ``save`` was given; both files must agree."""
    word = (checkpoint / "model.safetensors").read_text().split()[1]
    assert (checkpoint / "inner" / "optimizer.pt").read_text() == f"moments {word}"
    return word


def hidden_names(run: Path) -> list[str]:
    """Return the names of hidden files and folders in ``run``."""
    return [path.name for path in run.iterdir() if path.name.startswith(".")]


def fail_if_skipped(reason: str) -> None:
    """Raise AssertionError; ``latest_complete`` calls this for a checkpoint that it skips."""
    raise AssertionError(f"a checkpoint was skipped: {reason}")


CHANGES = ("mkdir", "rename", "replace", "fsync", "unlink", "rmdir")


@contextmanager
def watch_disk_changes(before: Callable[[str], None], names: tuple[str, ...] = CHANGES) -> Iterator[None]:
    """Call ``before`` with the name of each function of ``os`` that is about to change the disk."""

    def watched(name: str, change: Any) -> Any:
        def call(*positional: Any, **named: Any) -> Any:
            before(name)
            return change(*positional, **named)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(os, name, watched(name, getattr(os, name)))
        yield
