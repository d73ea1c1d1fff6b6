"""One run per folder: a second run is refused and changes nothing, and a killed run leaves no lock behind."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import slm_testing.forked as forked
from slm_testing.train.budget_runs import dynamic
from slm_testing.train.killing import start
from slm_testing.train.tiny_runs import Refused, Tiny
from slm_train import active_process
from slm_train.checkpoints.run_lock import lock_run
from slm_train.cli import main
from slm_train.command_line.run_defaults import free_output_dir
from slm_train.errors import TrainError
from slm_train.run_folder import lock_file
from slm_train.run_folder.lock_file import LOCK_FILE, release, try_lock


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return content and time of modification of every file in ``folder``."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.fixture(scope="module")
def stopped_run(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A run that has written checkpoints and is held by SIGSTOP: its folder and its process."""
    folder = tmp_path_factory.mktemp("active") / "run"
    process = start(tiny.flags(folder, "--max_steps", "5000", "--save_steps", "1"))
    while process.is_alive() and not list(folder.glob("checkpoint-*")):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGSTOP)
    yield folder, process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()


@pytest.mark.parametrize("more", [(), ("--overwrite_output_dir",), ("--resume_from_checkpoint",)])
@pytest.mark.parametrize("flags", [Tiny.flags, dynamic], ids=["trainer", "dynamic"])
def test_a_second_run_in_a_folder_is_refused_and_changes_nothing(
    tiny: Tiny,
    stopped_run: tuple[Path, int],
    refused: Refused,
    flags: Callable[..., list[str]],
    more: tuple[str, ...],
) -> None:
    folder, process = stopped_run
    before = contents(folder)
    sentence = refused([*flags(tiny, folder), *more])
    assert f"{folder} is in use by another run, process {process};" in sentence
    assert contents(folder) == before


def test_a_dry_run_reads_the_folder_of_an_active_run(
    tiny: Tiny, stopped_run: tuple[Path, int], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, process = stopped_run
    before = contents(folder)
    assert active_process(folder) == str(process)
    assert main(tiny.flags(folder, "--dry_run")) == 0
    assert contents(folder) == before


def test_a_killed_run_frees_its_folder_at_once_even_if_its_workers_live_on(tiny: Tiny, tmp_path: Path) -> None:
    if not Path("/proc/self/task").exists():
        pytest.skip("finds the workers in /proc")
    folder = tmp_path / "run"
    endless = tiny.flags(folder, "--save_steps", "1", "--dataloader_num_workers", "1", "--max_steps", "5000")
    process = start(endless)
    while process.is_alive() and not list(folder.glob("checkpoint-*")):
        time.sleep(0.01)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert workers
    for worker in workers:
        os.kill(int(worker), signal.SIGSTOP)  # it cannot notice that its parent is gone
    process.kill()
    process.join()
    try:
        assert Path(f"/proc/{workers[0]}").exists()
        assert (folder / LOCK_FILE).exists()
        assert active_process(folder) is None
        assert main([*tiny.flags(folder), "--overwrite_output_dir"]) == 0
        assert not (folder / LOCK_FILE).exists()
    finally:
        for worker in workers:
            os.kill(int(worker), signal.SIGKILL)


def test_of_two_runs_that_start_together_at_most_one_trains_in_a_folder(tiny: Tiny, tmp_path: Path) -> None:
    flags = tiny.flags("", "--max_steps", "2")
    position = flags.index("--output_dir")
    del flags[position : position + 2]
    outputs = [tmp_path / f"errors-{number}.txt" for number in range(2)]
    racing = [forked.start("slm_train.cli", flags, folder=tmp_path, errors=output) for output in outputs]
    for process in racing:
        process.join(120)
    errors = [output.read_text() for output in outputs]
    trained = [process for process in racing if process.exitcode == 0]
    folders = list((tmp_path / "outputs").iterdir())
    assert len(folders) == len(trained) >= 1, errors
    for folder in folders:
        assert (folder / "adapter_model.safetensors").exists()
    for process, error in zip(racing, errors, strict=True):
        assert process in trained or (process.exitcode == 2 and "is in use by another run" in error)


def test_the_default_folder_skips_one_in_which_a_run_has_only_just_begun(tmp_path: Path) -> None:
    with lock_run(tmp_path / "run", print):
        assert free_output_dir(str(tmp_path / "run"), None) == str(tmp_path / "run-2")
    assert free_output_dir(str(tmp_path / "run"), None) == str(tmp_path / "run")


def test_a_refused_run_leaves_no_folder(tiny: Tiny, tmp_path: Path, refused: Refused) -> None:
    refused(tiny.flags(tmp_path / "outputs" / "run", "--block_size", "4096"))
    assert not (tmp_path / "outputs").exists()


def test_a_lock_on_a_file_that_its_last_holder_removed_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / LOCK_FILE
    handle = try_lock(path)
    assert handle is not None
    assert try_lock(path) is None
    path.unlink()
    other = try_lock(path)  # of a new file of that name
    assert other is not None
    release(other, path)
    release(handle, path)


def test_a_file_system_without_locks_is_reported_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(handle: int, *, shared: bool) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock_file, "_lock", no_locks)
    printed: list[str] = []
    with lock_run(tmp_path, printed.append):
        assert active_process(tmp_path) is None
    assert len(printed) == 1
    assert "has no locks; make sure that no other run uses this folder" in printed[0]


def test_the_lock_is_freed_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(TrainError), lock_run(tmp_path, print):
        raise TrainError("refused")
    assert active_process(tmp_path) is None
    with lock_run(tmp_path, print):
        pass


def test_a_folder_below_a_file_is_refused_and_the_file_is_left_alone(
    tiny: Tiny, tmp_path: Path, refused: Refused
) -> None:
    (tmp_path / "file").write_text("mine")
    assert f"is below {tmp_path / 'file'}, which is a file" in refused(tiny.flags(tmp_path / "file" / "run"))
    assert (tmp_path / "file").read_text() == "mine"
