"""Disks that fill, turn read-only or go, and processes that die: the last checkpoint of the loop stays whole."""

from __future__ import annotations

import errno
import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from slm_testing.train.checkpoint_folders import every_change, hidden
from slm_testing.train.step_checkpoints import save, saved
from slm_train.checkpoint import CheckpointError, clean, writing_file
from slm_train.step_checkpoint import NAME, read_checkpoint

KILLED = """
import itertools, sys
from pathlib import Path
from slm_train.checkpoint import writing_file
for step in itertools.count(int(sys.argv[2])):
    with writing_file(Path(sys.argv[1])) as aside:
        aside.write_bytes(str(step).encode() * 30000)
    print(step, flush=True)
"""


class Crash(BaseException):
    """The process ends here."""


def replace_by(target: Path, content: str) -> None:
    with writing_file(target) as aside:
        aside.write_text(content)


@pytest.mark.usefixtures("no_waiting_for_the_disk")
@pytest.mark.parametrize("held", [True, False])
def test_a_crash_at_any_change_leaves_the_old_file_or_the_new_one(tmp_path: Path, held: bool) -> None:
    made: list[str] = []
    with every_change(made.append):
        replace_by(tmp_path / "probe", "x")
    assert made == ["fsync", "replace", "fsync"]
    for k in range(len(made)):
        run = tmp_path / str(k)
        run.mkdir()
        if held:
            (run / "file").write_text("old")
        count = itertools.count()

        def before(name: str, k: int = k, count: Iterator[int] = count) -> None:
            if next(count) >= k:
                raise Crash

        with every_change(before), suppress(Crash):
            replace_by(run / "file", "new")
        found = (run / "file").read_text() if (run / "file").exists() else None
        assert found == ("new" if k == 2 else "old" if held else None), k
        clean(run)
        assert hidden(run) == []


def test_the_file_is_on_the_disk_before_it_bears_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda handle: seen.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name))
    with every_change(lambda name: seen.append("renamed"), ("replace",)):
        replace_by(tmp_path / "file", "new")
    assert seen == [".file.writing", "renamed", tmp_path.name]


def test_killed_again_and_again_the_file_is_whole(tmp_path: Path) -> None:
    newest = 0
    for wait in (0.0, 0.013, 0.031, 0.047, 0.089):
        command = [sys.executable, "-c", KILLED, str(tmp_path / "file"), str(newest + 1)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        said = [first, *process.stdout.read().splitlines()]
        process.wait()
        process.stdout.close()
        found = (tmp_path / "file").read_bytes()
        newest = int(found[: len(found) // 30000])
        assert found == str(newest).encode() * 30000
        assert newest in (int(said[-1]), int(said[-1]) + 1)


def test_a_full_or_read_only_disk_is_said_and_the_last_one_stays(small_disk: Path) -> None:
    checkpoint, _ = saved(small_disk)
    checkpoint.wait()
    before = (small_disk / NAME).read_bytes()
    save(checkpoint, torch.nn.Linear(400, 300), 2)
    full = f"cannot write into {small_disk}: the disk is full .*: free some or give another --output_dir"
    with pytest.raises(CheckpointError, match=full):
        checkpoint.wait()
    assert hidden(small_disk) == []
    gc.collect()  # what was raised holds torch's open file
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    save(checkpoint, torch.nn.Linear(4, 3), 3)
    with pytest.raises(CheckpointError, match="cannot write into"):
        checkpoint.wait()
    assert (small_disk / NAME).read_bytes() == before


def test_a_folder_that_is_gone_is_said(tmp_path: Path) -> None:
    checkpoint, _ = saved(tmp_path / "run")
    with pytest.raises(CheckpointError, match=f"cannot write into {tmp_path / 'run'}: it or a part"):
        checkpoint.wait()
    checkpoint.wait()  # said once


@pytest.mark.parametrize("change", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EDQUOT, "the disk quota"),
        (errno.EACCES, "permission denied"),
        (errno.EPERM, "permission denied"),
        (errno.ENOENT, "is gone"),
    ],
)
def test_other_trouble_is_a_sentence_too(tmp_path: Path, change: str, number: int, said: str) -> None:
    (tmp_path / "file").write_text("old")

    def refuse(name: str) -> None:
        raise OSError(number, os.strerror(number))

    with every_change(refuse, (change,)), pytest.raises(CheckpointError, match=said):
        replace_by(tmp_path / "file", "new")
    assert hidden(tmp_path) == []


@pytest.mark.usefixtures("no_waiting_for_the_disk")
def test_two_are_never_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, model = saved(tmp_path)
    checkpoint.wait()
    write, alone, seen = torch.save, threading.Lock(), []

    def slowly(*given: Any) -> None:
        seen.append(alone.acquire(blocking=False))
        time.sleep(0.02)
        write(*given)
        alone.release()

    monkeypatch.setattr(torch, "save", slowly)
    for step in range(2, 7):
        save(checkpoint, model, step)
    checkpoint.wait()
    assert seen == [True] * 5
    found = read_checkpoint(tmp_path)
    assert found
    assert found["step"] == 6


def test_only_trained_weights_are_in_it(tmp_path: Path) -> None:
    checkpoint, model = saved(tmp_path)
    model.weight.requires_grad_(False)
    save(checkpoint, model, 2)
    checkpoint.wait()
    found = read_checkpoint(tmp_path)
    assert found
    assert list(found["weights"]) == ["bias"]
