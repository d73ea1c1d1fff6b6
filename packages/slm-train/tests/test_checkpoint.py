from __future__ import annotations

import errno
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_train.checkpoint import (
    MANIFEST,
    CheckpointError,
    aside_path,
    clean,
    complete_checkpoints,
    fault,
    latest_complete,
    rotate,
    writing,
)

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


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here cuts the power, and a busy disk takes 20 ms for each of thousands of syncs."""
    monkeypatch.setattr(os, "fsync", os.fstat)


class Crash(BaseException):
    """The process ends here: nothing that it would still do to the disk is done."""


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


SIZES = st.dictionaries(st.sampled_from(["a", "b.pt", "in/c"]), st.binary(max_size=300), min_size=1)


@settings(max_examples=40, deadline=None)
@given(files=SIZES, data=st.data())
def test_any_cut_flipped_or_added_byte_and_any_missing_file_is_found(
    files: dict[str, bytes], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch, "checkpoint-1")
        with writing(target) as aside:
            for name, content in files.items():
                (aside / name).parent.mkdir(exist_ok=True)
                (aside / name).write_bytes(content)
        assert fault(target) is None
        for _ in range(5):
            name = data.draw(st.sampled_from([*files, MANIFEST]))
            whole = (target / name).read_bytes()
            damage = data.draw(st.sampled_from(["cut", "flip", "add", "remove"] if whole else ["add", "remove"]))
            at = data.draw(st.integers(0, max(0, len(whole) - 1)))
            if damage == "cut":
                (target / name).write_bytes(whole[:at])
            elif damage == "flip":
                other = whole[at] ^ data.draw(st.integers(1, 255))
                (target / name).write_bytes(whole[:at] + bytes([other]) + whole[at + 1 :])
            elif damage == "add":
                (target / name).write_bytes(whole + b"\n")
            else:
                (target / name).unlink()
            reason = fault(target)
            assert reason is not None
            assert name in reason or reason == "no manifest"
            (target / name).write_bytes(whole)
        assert fault(target) is None


def test_every_single_byte_of_the_manifest_counts(tmp_path: Path) -> None:
    target = save(tmp_path, 1)
    whole = (target / MANIFEST).read_bytes()
    for at, bit in itertools.product(range(len(whole)), (1, 32)):
        (target / MANIFEST).write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
        assert fault(target) == "manifest.json is damaged, or of another version", (at, bit)


def test_a_fault_says_what_is_wrong(tmp_path: Path) -> None:
    target, weights = save(tmp_path, 1), tmp_path / "checkpoint-1" / "model.safetensors"
    weights.write_text("weights 2")
    assert fault(target) == "hash of model.safetensors differs"
    weights.write_text("wei")
    assert fault(target) == "model.safetensors is 3 of 9 bytes"
    weights.unlink()
    assert fault(target) == "model.safetensors is missing"
    (target / MANIFEST).write_text("[]")
    assert fault(target) == "manifest.json is damaged, or of another version"
    (target / MANIFEST).unlink()
    assert fault(target) == "no manifest"
    assert fault(tmp_path / "checkpoint-2") == "there is no such folder"


def test_a_file_that_cannot_be_read_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = save(tmp_path, 1)

    def refuse(content: Any, name: str) -> None:
        raise OSError(errno.EIO, "Input/output error", content.name)

    monkeypatch.setattr("slm_train.checkpoint.hashlib.file_digest", refuse)
    assert "cannot be read: Input/output error" in (fault(target) or "")


def test_the_newest_complete_one_is_found_and_each_skipped_one_is_said(tmp_path: Path) -> None:
    for step in (8, 9, 10, 11):
        save(tmp_path, step)
    (tmp_path / "checkpoint-12").mkdir()
    (tmp_path / "checkpoint-final").mkdir()
    (tmp_path / "checkpoint-13").write_text("a file")
    (tmp_path / "checkpoint-11" / "model.safetensors").write_text("")
    said: list[str] = []
    assert latest_complete(tmp_path, said.append) == tmp_path / "checkpoint-10"
    assert said == [
        f"skipping {tmp_path / 'checkpoint-12'}: no manifest",
        f"skipping {tmp_path / 'checkpoint-11'}: model.safetensors is 0 of 10 bytes",
    ]
    assert [path.name for path in complete_checkpoints(tmp_path)] == [f"checkpoint-{n}" for n in range(8, 13)]


def test_a_run_without_checkpoints_has_no_newest(tmp_path: Path) -> None:
    assert latest_complete(tmp_path, unheard) is None
    assert complete_checkpoints(tmp_path / "never made") == []


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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB, where this process may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    command = [mount or "", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if not mount or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def write_too_much(aside: Path) -> None:
    (aside / "optimizer.pt").write_bytes(bytes(2**20))


def write_too_much_as_torch_does(aside: Path) -> None:
    with suppress(OSError):
        write_too_much(aside)
    raise RuntimeError("PytorchStreamWriter failed writing file data/1: file write failed")


@pytest.mark.parametrize("write", [write_too_much, write_too_much_as_torch_does])
def test_a_full_disk_is_said_and_the_last_checkpoint_stays(small_disk: Path, write: Callable[[Path], None]) -> None:
    save(small_disk, 1)
    for step in (1, 2):
        with pytest.raises(CheckpointError) as raised, writing(small_disk / f"checkpoint-{step}") as aside:
            write(aside)
        assert f"cannot write checkpoints into {small_disk}: the disk is full (0.0 MB left)" in str(raised.value)
    assert latest_complete(small_disk, unheard) == small_disk / "checkpoint-1"
    assert hidden(small_disk) == []
    save(small_disk, 2)


def test_a_disk_that_turned_read_only_is_said(small_disk: Path) -> None:
    save(small_disk, 1)
    aside_path(small_disk / "checkpoint-9").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(CheckpointError, match="the file system is read-only: make the folder writable"):
        save(small_disk, 2)
    with pytest.raises(CheckpointError, match="read-only"):
        clean(small_disk)
    assert latest_complete(small_disk, unheard) == small_disk / "checkpoint-1"


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission denied"),
        (errno.ENOENT, "is gone"),
    ],
)
@pytest.mark.parametrize("change", ["mkdir", "fsync", "rename"])
def test_trouble_with_the_disk_is_one_sentence_that_names_the_folder(
    tmp_path: Path, number: int, said: str, change: str
) -> None:
    save(tmp_path, 1)

    def refuse(name: str) -> None:
        raise OSError(number, os.strerror(number))

    with every_change(refuse, (change,)), pytest.raises(CheckpointError) as raised:
        save(tmp_path, 1, "new")
    assert str(raised.value).startswith(f"cannot write checkpoints into {tmp_path}: ")
    assert said in str(raised.value)
    assert contents(latest_complete(tmp_path, unheard) or tmp_path) == "1"


def test_a_folder_without_permission_is_said(tmp_path: Path) -> None:
    if os.name == "nt" or os.geteuid() == 0:
        pytest.skip("this user may write anywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(CheckpointError, match="permission denied"):
        save(tmp_path, 1)
    tmp_path.chmod(0o700)


def lose_the_folder(aside: Path) -> None:
    shutil.rmtree(aside.parent)
    (aside / "model").write_text("")


def lose_the_folder_as_torch_does(aside: Path) -> None:
    shutil.rmtree(aside.parent)
    raise RuntimeError("Parent directory does not exist")


@pytest.mark.parametrize("write", [lose_the_folder, lose_the_folder_as_torch_does])
def test_a_folder_that_is_gone_is_said(tmp_path: Path, write: Callable[[Path], None]) -> None:
    run = tmp_path / "run"
    with pytest.raises(CheckpointError, match="is gone"):
        save(run, 1)
    run.mkdir()
    with pytest.raises(CheckpointError, match="is gone"), writing(run / "checkpoint-1") as aside:
        write(aside)


def test_a_run_named_by_a_relative_path_gets_its_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="permission denied"), writing(Path("checkpoint-1")) as aside:
        raise PermissionError(errno.EACCES, "no", str(aside.absolute() / "model"))
