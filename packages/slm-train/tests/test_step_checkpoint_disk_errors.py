"""Full, read-only and missing disks, and killed processes: the last checkpoint of the loop remains complete."""

from __future__ import annotations

import errno
import gc
import itertools
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from slm_testing.train.checkpoint_folders import hidden_names, watch_disk_changes
from slm_testing.train.endless_writers import COPIES, write_and_kill
from slm_testing.train.step_checkpoints import save, saved
from slm_train.checkpoints.files.atomic_write import atomic_file, remove_leftovers
from slm_train.checkpoints.step_checkpoint_file import STEP_CHECKPOINT_FILE, read_step_checkpoint
from slm_train.errors import CheckpointError


class Crash(BaseException):
    """The process ends here."""


def replace_by(target: Path, content: str) -> None:
    with atomic_file(target) as temporary:
        temporary.write_text(content)


@pytest.mark.parametrize("exists", [True, False])
def test_a_crash_at_any_change_leaves_the_old_file_or_the_new_one(tmp_path: Path, exists: bool) -> None:
    changes: list[str] = []
    with watch_disk_changes(changes.append):
        replace_by(tmp_path / "probe", "x")
    assert changes == ["fsync", "replace", "fsync"]
    for k in range(len(changes)):
        run = tmp_path / str(k)
        run.mkdir()
        if exists:
            (run / "file").write_text("old")
        count = itertools.count()

        def before(name: str, k: int = k, count: Iterator[int] = count) -> None:
            if next(count) >= k:
                raise Crash

        with watch_disk_changes(before), suppress(Crash):
            replace_by(run / "file", "new")
        text = (run / "file").read_text() if (run / "file").exists() else None
        assert text == ("new" if k == 2 else "old" if exists else None), k
        remove_leftovers(run)
        assert hidden_names(run) == []


def test_the_file_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda handle: events.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name))
    with watch_disk_changes(lambda name: events.append("renamed"), ("replace",)):
        replace_by(tmp_path / "file", "new")
    assert events == [".file.writing", "renamed", tmp_path.name]


def test_the_file_is_complete_after_repeated_kills(tmp_path: Path) -> None:
    newest = 0
    for wait in (0.0, 0.013, 0.031, 0.047, 0.089):
        printed = write_and_kill(["file", tmp_path / "file", newest + 1], tmp_path / "printed.txt", wait)
        text = (tmp_path / "file").read_bytes()
        newest = int(text[: len(text) // COPIES])
        assert text == str(newest).encode() * COPIES
        assert newest in (printed, printed + 1)


def test_a_full_or_read_only_disk_is_reported_and_the_last_checkpoint_remains(small_disk: Path) -> None:
    checkpoint, _ = saved(small_disk)
    checkpoint.wait()
    before = (small_disk / STEP_CHECKPOINT_FILE).read_bytes()
    save(checkpoint, torch.nn.Linear(400, 300), 2)
    full = f"cannot write into {small_disk}: the disk is full .*: free some space or give another --output_dir"
    with pytest.raises(CheckpointError, match=full):
        checkpoint.wait()
    assert hidden_names(small_disk) == []
    gc.collect()  # the exception keeps torch's file open
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    save(checkpoint, torch.nn.Linear(4, 3), 3)
    with pytest.raises(CheckpointError, match="cannot write into"):
        checkpoint.wait()
    assert (small_disk / STEP_CHECKPOINT_FILE).read_bytes() == before


def test_a_folder_that_is_gone_is_reported(tmp_path: Path) -> None:
    checkpoint, _ = saved(tmp_path / "run")
    with pytest.raises(CheckpointError, match=f"cannot write into {tmp_path / 'run'}: the folder or a part"):
        checkpoint.wait()
    checkpoint.wait()  # raised once


@pytest.mark.parametrize("change", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.EDQUOT, "the disk quota"),
        (errno.EACCES, "permission denied"),
        (errno.EPERM, "permission denied"),
        (errno.ENOENT, "is gone"),
    ],
)
def test_other_disk_errors_are_reported_in_one_sentence(
    tmp_path: Path, change: str, number: int, expected: str
) -> None:
    (tmp_path / "file").write_text("old")

    def refuse(name: str) -> None:
        raise OSError(number, os.strerror(number))

    with watch_disk_changes(refuse, (change,)), pytest.raises(CheckpointError, match=expected):
        replace_by(tmp_path / "file", "new")
    assert hidden_names(tmp_path) == []


def test_two_checkpoints_are_never_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, model = saved(tmp_path)
    checkpoint.wait()
    write, lock, acquired = torch.save, threading.Lock(), []

    def save_slowly(*arguments: Any) -> None:
        acquired.append(lock.acquire(blocking=False))
        time.sleep(0.02)
        write(*arguments)
        lock.release()

    monkeypatch.setattr(torch, "save", save_slowly)
    for step in range(2, 7):
        save(checkpoint, model, step)
    checkpoint.wait()
    assert acquired == [True] * 5
    content = read_step_checkpoint(tmp_path)
    assert content
    assert content["step"] == 6


def test_a_checkpoint_contains_only_trained_weights(tmp_path: Path) -> None:
    checkpoint, model = saved(tmp_path)
    model.weight.requires_grad_(False)
    save(checkpoint, model, 2)
    checkpoint.wait()
    content = read_step_checkpoint(tmp_path)
    assert content
    assert list(content["weights"]) == ["bias"]
