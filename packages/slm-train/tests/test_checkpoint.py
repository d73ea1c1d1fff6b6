"""A checkpoint is complete or absent: crashes, kills, left-overs, rotation."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from slm_testing.train.checkpoint_folders import contents, every_change, hidden, save, unheard
from slm_train.checkpoint import (
    MANIFEST,
    aside_path,
    clean,
    complete_checkpoints,
    fault,
    latest_complete,
    rotate,
    writing,
)

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")

WRITER = """
import itertools, sys
from pathlib import Path
from slm_train.checkpoint import clean, latest_complete, rotate, writing
run = Path(sys.argv[1])
newest = latest_complete(run, print)
clean(run)
for step in itertools.count(int(newest.name.rpartition("-")[2]) if newest else 1):
    for _ in range(2):
        with writing(run / f"checkpoint-{step}") as aside:
            for name in ("model", "optimizer"):
                (aside / name).write_bytes(str(step).encode() * 30000)
        print(step, flush=True)
    rotate(run, 2, None)
"""


class Crash(BaseException):
    """The process ends here: nothing that it would still do to the disk is done."""


@contextmanager
def crash_at(k: int) -> Iterator[None]:
    """From the k-th change of the disk on, every one raises: the disk stays as the crash found it."""
    count = itertools.count()

    def before(name: str) -> None:
        if next(count) >= k:
            raise Crash

    with every_change(before), suppress(Crash):
        yield


@contextmanager
def refuse_at(k: int) -> Iterator[None]:
    """The k-th renaming or syncing alone fails, as on a disk in trouble."""
    count = itertools.count()

    def before(name: str) -> None:
        if next(count) == k:
            raise OSError(errno.EIO, "the disk gave up")

    with every_change(before, ("rename", "replace", "fsync")):
        yield


def changes(work: Callable[[], object]) -> list[str]:
    """The names of the changes that ``work`` makes, in order."""
    made: list[str] = []
    with every_change(made.append):
        work()
    return made


# Three things a run does to a folder that holds checkpoint-1 and checkpoint-2, and what may be newest after.
WORKS: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "a new step": (lambda run: save(run, 3, "new"), {"2", "new"}),
    "the same step again": (lambda run: save(run, 2, "new"), {"2", "new"}),
    "a new step and a rotation": (lambda run: save(run, 3, "new", keep=1), {"2", "new"}),
}


def run_of_two(parent: Path, k: int = 0) -> Path:
    run = parent / str(k)
    run.mkdir()
    save(run, 1)
    save(run, 2)
    return run


@pytest.mark.parametrize("work", WORKS)
def test_a_crash_at_any_change_of_the_disk_leaves_the_old_or_the_new_checkpoint(tmp_path: Path, work: str) -> None:
    do, allowed = WORKS[work]
    run = run_of_two(tmp_path, -1)
    made = changes(lambda: do(run))
    assert {"rename", "fsync", "mkdir"} <= set(made)
    for k in range(len(made)):
        run = run_of_two(tmp_path, k)
        with crash_at(k):
            do(run)
        for checkpoint in complete_checkpoints(run):
            assert fault(checkpoint) is None, (k, checkpoint)
        newest = latest_complete(run, unheard)
        assert newest is not None, k
        assert contents(newest) in allowed, k
        clean(run)
        assert latest_complete(run, unheard) == newest, k
        assert hidden(run) == [], k
        do(run)
        assert contents(latest_complete(run, unheard) or run) == "new"


def test_a_crash_while_a_crash_is_being_repaired_loses_nothing(tmp_path: Path) -> None:
    again, _ = WORKS["the same step again"]
    run = run_of_two(tmp_path, -1)
    first = len(changes(lambda: again(run)))
    for number, (k, j) in enumerate(itertools.product(range(first), range(4))):
        run = run_of_two(tmp_path, number)
        with crash_at(k):
            again(run)
        with crash_at(j):
            clean(run)
        newest = latest_complete(run, unheard)
        assert newest == run / "checkpoint-2", (k, j)
        assert contents(newest) in {"2", "new"}, (k, j)


@pytest.mark.parametrize("work", WORKS)
def test_a_rename_or_sync_that_fails_raises_and_leaves_the_old_or_the_new_checkpoint(tmp_path: Path, work: str) -> None:
    do, allowed = WORKS[work]
    run = run_of_two(tmp_path, -1)
    renames = [name for name in changes(lambda: do(run)) if name in ("rename", "fsync")]
    for k in range(len(renames)):
        run = run_of_two(tmp_path, k)
        with refuse_at(k), pytest.raises(OSError, match="the disk gave up"):
            do(run)
        assert (run / "checkpoint-2").exists() or (run / "checkpoint-3").exists(), k
        newest = latest_complete(run, unheard)
        assert newest is not None, k
        assert contents(newest) in allowed, k
        assert not aside_path(newest).exists(), k


def test_everything_is_on_the_disk_before_it_bears_the_name(tmp_path: Path) -> None:
    synced: list[str] = []

    def watch(name: str) -> None:
        if name == "rename":
            synced.append("renamed")

    def sync(handle: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc to name what is synced")
    with pytest.MonkeyPatch.context() as patch, every_change(watch):
        patch.setattr(os, "fsync", sync)
        save(tmp_path, 1)
    assert set(synced[:2]) == {"model.safetensors", "optimizer.pt"}
    assert synced[2:] == [MANIFEST, "inner", ".checkpoint-1.writing", "renamed", tmp_path.name]


@pytest.mark.parametrize(
    "error",
    [ValueError("a bug"), KeyboardInterrupt(), FileNotFoundError(errno.ENOENT, "gone", "/elsewhere/x")],
)
def test_what_is_raised_while_writing_leaves_the_old_one_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    target = save(tmp_path, 1)

    def half() -> None:
        with writing(target) as aside:
            assert list(aside.iterdir()) == []
            (aside / "model.safetensors").write_text("half")
            raise error

    with pytest.raises(type(error)):
        half()
    assert contents(target) == "1"
    assert hidden(tmp_path) == []


def test_left_overs_of_a_crash_do_not_get_into_the_next_checkpoint(tmp_path: Path) -> None:
    aside = aside_path(tmp_path / "checkpoint-1")
    aside.mkdir()
    (aside / "old").write_text("of a crash")
    assert not (save(tmp_path, 1) / "old").exists()


def test_every_process_knows_where_a_checkpoint_is_written(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint-12"
    assert aside_path(target) == tmp_path / ".checkpoint-12.writing"
    with writing(target):
        (aside_path(target) / "rng_state_1.pth").write_text("of rank 1")
    assert (target / "rng_state_1.pth").read_text() == "of rank 1"
    assert fault(target) is None


@pytest.mark.parametrize(
    ("keep", "also", "left"),
    [
        (None, None, [1, 2, 10, 11, 12]),
        (9, None, [1, 2, 10, 11, 12]),
        (2, None, [11, 12]),
        (1, None, [12]),
        (3, 2, [2, 11, 12]),
        (1, 2, [2, 12]),
        (1, 12, [12]),
    ],
)
def test_rotation_keeps_the_newest_and_the_best(
    tmp_path: Path, keep: int | None, also: int | None, left: list[int]
) -> None:
    for step in (1, 2, 10, 11, 12):
        save(tmp_path, step)
    rotate(tmp_path, keep, Path(f"moved/since/checkpoint-{also}") if also else None)
    assert complete_checkpoints(tmp_path) == [tmp_path / f"checkpoint-{step}" for step in left]
    assert hidden(tmp_path) == []


def test_after_going_back_to_an_older_one_rotation_keeps_what_was_written_last(tmp_path: Path) -> None:
    for step in (2, 4):
        save(tmp_path, step)
    (tmp_path / "checkpoint-4" / "model.safetensors").write_text("broken")
    time.sleep(0.02)  # file times are only so fine
    save(tmp_path, 3, keep=1)
    assert latest_complete(tmp_path, unheard) == tmp_path / "checkpoint-3"


def test_rotation_leaves_alone_what_was_not_written_here(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    for step in (2, 3):
        save(tmp_path, step, keep=1)
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["checkpoint-1", "checkpoint-3"]


def test_cleaning_removes_left_overs_only(tmp_path: Path) -> None:
    save(tmp_path, 1)
    for name in (".checkpoint-2.writing", ".checkpoint-1.deleting", ".checkpoint-1.replaced", ".git"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("")
    (tmp_path / ".run.json.writing").write_text("")
    clean(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".git", "checkpoint-1"]


def test_cleaning_puts_back_what_was_being_replaced(tmp_path: Path) -> None:
    target = save(tmp_path, 1)
    target.rename(tmp_path / ".checkpoint-1.replaced")
    clean(tmp_path)
    assert contents(target) == "1"
    assert hidden(tmp_path) == []


def test_killed_again_and_again_a_run_has_its_newest_checkpoint(tmp_path: Path) -> None:
    newest = 0
    for wait in (0.0, 0.013, 0.031, 0.047, 0.089):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        said = [first, *process.stdout.read().splitlines()]
        process.wait()
        process.stdout.close()
        found = latest_complete(tmp_path, unheard)
        assert found is not None
        number = int(found.name.rpartition("-")[2])
        assert number >= max(newest, int(said[-1]))
        assert {file.read_bytes() for file in found.iterdir() if file.name != MANIFEST} == {
            str(number).encode() * 30000
        }
        newest = number
