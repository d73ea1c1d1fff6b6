"""Full, read-only and missing disks are reported in one sentence, and the last checkpoint remains."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from slm_testing.train.checkpoint_folders import contents, fail_if_skipped, hidden_names, save, watch_disk_changes
from slm_train.checkpoints.files.atomic_write import atomic_folder, remove_leftovers, temporary_path
from slm_train.checkpoints.retention import latest_complete
from slm_train.errors import CheckpointError

NOBODY = 65534  # the user without rights


def write_too_much(temporary: Path) -> None:
    (temporary / "optimizer.pt").write_bytes(bytes(2**20))


def write_too_much_as_torch_does(temporary: Path) -> None:
    with suppress(OSError):
        write_too_much(temporary)
    raise RuntimeError("PytorchStreamWriter failed writing file data/1: file write failed")


@pytest.mark.parametrize("write", [write_too_much, write_too_much_as_torch_does])
def test_a_full_disk_is_reported_and_the_last_checkpoint_remains(
    small_disk: Path, write: Callable[[Path], None]
) -> None:
    save(small_disk, 1)
    for step in (1, 2):
        with pytest.raises(CheckpointError) as raised, atomic_folder(small_disk / f"checkpoint-{step}") as temporary:
            write(temporary)
        assert f"cannot write into {small_disk}: the disk is full (0.0 MB left)" in str(raised.value)
    assert latest_complete(small_disk, fail_if_skipped) == small_disk / "checkpoint-1"
    assert hidden_names(small_disk) == []
    save(small_disk, 2)


def test_a_disk_that_became_read_only_is_reported(small_disk: Path) -> None:
    save(small_disk, 1)
    temporary_path(small_disk / "checkpoint-9").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(CheckpointError, match="the file system is read-only: make the folder writable"):
        save(small_disk, 2)
    with pytest.raises(CheckpointError, match="read-only"):
        remove_leftovers(small_disk)
    assert latest_complete(small_disk, fail_if_skipped) == small_disk / "checkpoint-1"


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission denied"),
        (errno.ENOENT, "is gone"),
    ],
)
@pytest.mark.parametrize("change", ["mkdir", "fsync", "rename"])
def test_a_disk_error_is_one_sentence_that_names_the_folder(
    tmp_path: Path, number: int, expected: str, change: str
) -> None:
    save(tmp_path, 1)

    def refuse(name: str) -> None:
        raise OSError(number, os.strerror(number))

    with watch_disk_changes(refuse, (change,)), pytest.raises(CheckpointError) as raised:
        save(tmp_path, 1, "new")
    assert str(raised.value).startswith(f"cannot write into {tmp_path}: ")
    assert expected in str(raised.value)
    assert contents(latest_complete(tmp_path, fail_if_skipped) or tmp_path) == "1"


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Become another user than root, who may write anywhere."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_a_folder_without_permission_is_reported() -> None:
    with TemporaryDirectory() as folder:  # not in the folder of pytest, which only its owner may enter
        Path(folder).chmod(0o555)
        with ordinary_user(), pytest.raises(CheckpointError, match="permission denied"):
            save(Path(folder), 1)
        Path(folder).chmod(0o700)


def lose_the_folder(temporary: Path) -> None:
    shutil.rmtree(temporary.parent)
    (temporary / "model").write_text("")


def lose_the_folder_as_torch_does(temporary: Path) -> None:
    shutil.rmtree(temporary.parent)
    raise RuntimeError("Parent directory does not exist")


@pytest.mark.parametrize("write", [lose_the_folder, lose_the_folder_as_torch_does])
def test_a_folder_that_is_gone_is_reported(tmp_path: Path, write: Callable[[Path], None]) -> None:
    run = tmp_path / "run"
    with pytest.raises(CheckpointError, match="is gone"):
        save(run, 1)
    run.mkdir()
    with pytest.raises(CheckpointError, match="is gone"), atomic_folder(run / "checkpoint-1") as temporary:
        write(temporary)


def test_a_relative_run_folder_is_reported_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="permission denied"), atomic_folder(Path("checkpoint-1")) as temporary:
        raise PermissionError(errno.EACCES, "no", str(temporary.absolute() / "model"))
