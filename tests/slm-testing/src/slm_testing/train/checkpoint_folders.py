"""Folders of checkpoints as a run writes them, and an eye on every change of the disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from slm_train.checkpoint import rotate, writing


def save(run: Path, step: int, content: str = "", keep: int | None = None) -> Path:
    target = run / f"checkpoint-{step}"
    with writing(target) as aside:
        (aside / "model.safetensors").write_text(f"weights {content or step}")
        (aside / "inner").mkdir()
        (aside / "inner" / "optimizer.pt").write_text(f"moments {content or step}")
    rotate(run, keep, None)
    return target


def contents(checkpoint: Path) -> str:
    """What ``save`` was given; both files must agree."""
    word = (checkpoint / "model.safetensors").read_text().split()[1]
    assert (checkpoint / "inner" / "optimizer.pt").read_text() == f"moments {word}"
    return word


def hidden(run: Path) -> list[str]:
    return [path.name for path in run.iterdir() if path.name.startswith(".")]


def unheard(reason: str) -> None:
    raise AssertionError(f"a checkpoint was skipped: {reason}")


CHANGES = ("mkdir", "rename", "replace", "fsync", "unlink", "rmdir")


@contextmanager
def every_change(before: Callable[[str], None], names: tuple[str, ...] = CHANGES) -> Iterator[None]:
    """Call ``before`` with the name of each function of ``os`` that is about to change the disk."""

    def watched(name: str, change: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            before(name)
            return change(*given, **named)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(os, name, watched(name, getattr(os, name)))
        yield
