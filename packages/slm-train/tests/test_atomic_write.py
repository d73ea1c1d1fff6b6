"""A checkpoint is complete or absent: crashes, kills, leftovers, rotation."""

from __future__ import annotations

import errno
import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from slm_testing.train.checkpoint_folders import contents, fail_if_skipped, hidden_names, save, watch_disk_changes
from slm_testing.train.endless_writers import COPIES, write_and_kill
from slm_train.checkpoints.files.atomic_write import atomic_folder, remove_leftovers, temporary_path
from slm_train.checkpoints.files.manifest import MANIFEST, find_fault
from slm_train.checkpoints.retention import latest_complete, list_checkpoints, rotate


class Crash(BaseException):
    """The process ends here: no later change of the disk happens."""


@contextmanager
def crash_at(k: int) -> Iterator[None]:
    """From the k-th change of the disk on, every one raises: the disk stays as the crash found it."""
    count = itertools.count()

    def before(name: str) -> None:
        if next(count) >= k:
            raise Crash

    with watch_disk_changes(before), suppress(Crash):
        yield


@contextmanager
def fail_at(k: int) -> Iterator[None]:
    """Only the k-th rename or sync fails, as on a failing disk."""
    count = itertools.count()

    def before(name: str) -> None:
        if next(count) == k:
            raise OSError(errno.EIO, "the disk failed")

    with watch_disk_changes(before, ("rename", "replace", "fsync")):
        yield


def changes_of(operation: Callable[[], object]) -> list[str]:
    """The names of the changes that ``operation`` makes, in order."""
    changes: list[str] = []
    with watch_disk_changes(changes.append):
        operation()
    return changes


# What a run does to a folder with checkpoint-1 and checkpoint-2, and the contents that may be newest after a crash.
OPERATIONS: dict[str, tuple[Callable[[Path], object], set[str]]] = {
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


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_crash_at_any_change_of_the_disk_leaves_the_old_or_the_new_checkpoint(tmp_path: Path, operation: str) -> None:
    operate, allowed = OPERATIONS[operation]
    run = run_of_two(tmp_path, -1)
    changes = changes_of(lambda: operate(run))
    assert {"rename", "fsync", "mkdir"} <= set(changes)
    for k in range(len(changes)):
        run = run_of_two(tmp_path, k)
        with crash_at(k):
            operate(run)
        for checkpoint in list_checkpoints(run):
            assert find_fault(checkpoint) is None, (k, checkpoint)
        newest = latest_complete(run, fail_if_skipped)
        assert newest is not None, k
        assert contents(newest) in allowed, k
        remove_leftovers(run)
        assert latest_complete(run, fail_if_skipped) == newest, k
        assert hidden_names(run) == [], k
        operate(run)
        assert contents(latest_complete(run, fail_if_skipped) or run) == "new"


def test_a_crash_while_a_crash_is_being_repaired_loses_nothing(tmp_path: Path) -> None:
    save_again, _ = OPERATIONS["the same step again"]
    run = run_of_two(tmp_path, -1)
    first = len(changes_of(lambda: save_again(run)))
    for number, (k, j) in enumerate(itertools.product(range(first), range(4))):
        run = run_of_two(tmp_path, number)
        with crash_at(k):
            save_again(run)
        with crash_at(j):
            remove_leftovers(run)
        newest = latest_complete(run, fail_if_skipped)
        assert newest == run / "checkpoint-2", (k, j)
        assert contents(newest) in {"2", "new"}, (k, j)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_rename_or_sync_that_fails_raises_and_leaves_the_old_or_the_new_checkpoint(
    tmp_path: Path, operation: str
) -> None:
    operate, allowed = OPERATIONS[operation]
    run = run_of_two(tmp_path, -1)
    renames = [name for name in changes_of(lambda: operate(run)) if name in ("rename", "fsync")]
    for k in range(len(renames)):
        run = run_of_two(tmp_path, k)
        with fail_at(k), pytest.raises(OSError, match="the disk failed"):
            operate(run)
        assert (run / "checkpoint-2").exists() or (run / "checkpoint-3").exists(), k
        newest = latest_complete(run, fail_if_skipped)
        assert newest is not None, k
        assert contents(newest) in allowed, k
        assert not temporary_path(newest).exists(), k


def test_everything_is_on_the_disk_before_it_gets_its_name(tmp_path: Path) -> None:
    synced: list[str] = []

    def watch(name: str) -> None:
        if name == "rename":
            synced.append("renamed")

    def sync(handle: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc to name what is synced")
    with pytest.MonkeyPatch.context() as patch, watch_disk_changes(watch):
        patch.setattr(os, "fsync", sync)
        save(tmp_path, 1)
    assert set(synced[:2]) == {"model.safetensors", "optimizer.pt"}
    assert synced[2:] == [MANIFEST, "inner", ".checkpoint-1.writing", "renamed", tmp_path.name]


@pytest.mark.parametrize(
    "error",
    [ValueError("a bug"), KeyboardInterrupt(), FileNotFoundError(errno.ENOENT, "gone", "/elsewhere/x")],
)
def test_an_error_while_writing_leaves_the_old_checkpoint_and_nothing_else(
    tmp_path: Path, error: BaseException
) -> None:
    target = save(tmp_path, 1)

    def half() -> None:
        with atomic_folder(target) as temporary:
            assert list(temporary.iterdir()) == []
            (temporary / "model.safetensors").write_text("half")
            raise error

    with pytest.raises(type(error)):
        half()
    assert contents(target) == "1"
    assert hidden_names(tmp_path) == []


def test_leftovers_of_a_crash_do_not_get_into_the_next_checkpoint(tmp_path: Path) -> None:
    temporary = temporary_path(tmp_path / "checkpoint-1")
    temporary.mkdir()
    (temporary / "old").write_text("of a crash")
    assert not (save(tmp_path, 1) / "old").exists()


def test_every_process_knows_where_a_checkpoint_is_written(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint-12"
    assert temporary_path(target) == tmp_path / ".checkpoint-12.writing"
    with atomic_folder(target):
        (temporary_path(target) / "rng_state_1.pth").write_text("of rank 1")
    assert (target / "rng_state_1.pth").read_text() == "of rank 1"
    assert find_fault(target) is None


@pytest.mark.parametrize(
    ("keep", "protected", "remaining"),
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
    tmp_path: Path, keep: int | None, protected: int | None, remaining: list[int]
) -> None:
    for step in (1, 2, 10, 11, 12):
        save(tmp_path, step)
    rotate(tmp_path, keep, Path(f"moved/since/checkpoint-{protected}") if protected else None)
    assert list_checkpoints(tmp_path) == [tmp_path / f"checkpoint-{step}" for step in remaining]
    assert hidden_names(tmp_path) == []


def test_after_going_back_to_an_older_one_rotation_keeps_what_was_written_last(tmp_path: Path) -> None:
    for step in (2, 4):
        save(tmp_path, step)
    (tmp_path / "checkpoint-4" / "model.safetensors").write_text("broken")
    time.sleep(0.02)  # file times have a limited resolution
    save(tmp_path, 3, keep=1)
    assert latest_complete(tmp_path, fail_if_skipped) == tmp_path / "checkpoint-3"


def test_rotation_keeps_folders_without_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    for step in (2, 3):
        save(tmp_path, step, keep=1)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-1", "checkpoint-3"]


def test_cleaning_removes_leftovers_only(tmp_path: Path) -> None:
    save(tmp_path, 1)
    for name in (".checkpoint-2.writing", ".checkpoint-1.deleting", ".checkpoint-1.replaced", ".git"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("")
    (tmp_path / ".run.json.writing").write_text("")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".git", "checkpoint-1"]


def test_cleaning_restores_what_was_being_replaced(tmp_path: Path) -> None:
    target = save(tmp_path, 1)
    target.rename(tmp_path / ".checkpoint-1.replaced")
    remove_leftovers(tmp_path)
    assert contents(target) == "1"
    assert hidden_names(tmp_path) == []


def test_a_run_that_is_killed_repeatedly_keeps_its_newest_checkpoint(tmp_path: Path) -> None:
    run, newest = tmp_path / "run", 0
    run.mkdir()
    for wait in (0.0, 0.013, 0.031, 0.047, 0.089):
        printed = write_and_kill(["folder", run], tmp_path / "printed.txt", wait)
        newest_complete = latest_complete(run, fail_if_skipped)
        assert newest_complete is not None
        number = int(newest_complete.name.rpartition("-")[2])
        assert number >= max(newest, printed)
        assert {file.read_bytes() for file in newest_complete.iterdir() if file.name != MANIFEST} == {
            str(number).encode() * COPIES
        }
        newest = number
