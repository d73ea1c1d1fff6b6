"""The file written after every step: complete or absent, checked byte by byte, never run as code."""

from __future__ import annotations

import errno
import itertools
import os
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slm_testing.train.checkpoint_folders import hidden_names, watch_disk_changes
from slm_testing.train.step_checkpoints import save, saved
from slm_train.checkpoints.files.atomic_write import atomic_file
from slm_train.checkpoints.random_state import random_state, set_random_state
from slm_train.checkpoints.step_checkpoint_file import STEP_CHECKPOINT_FILE, load_weights, read_step_checkpoint
from slm_train.errors import CheckpointError


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    checkpoint, model = saved(tmp_path)
    expected_weights = {name: values.clone() for name, values in model.state_dict().items()}
    with torch.no_grad():
        model.weight.zero_()  # training continues while it is written
    checkpoint.wait()
    content = read_step_checkpoint(tmp_path)
    assert content
    assert content["step"] == 1
    assert content["identity"] == {"mode": "baseline"}
    assert all(torch.equal(content["weights"][name], expected_weights[name]) for name in expected_weights)
    assert hidden_names(tmp_path) == []


def test_a_folder_without_a_checkpoint_gives_none(tmp_path: Path) -> None:
    assert read_step_checkpoint(tmp_path) is None


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_checkpoint_that_is_cut_short_is_refused(tmp_path: Path, share: float) -> None:
    saved(tmp_path)[0].wait()
    whole = (tmp_path / STEP_CHECKPOINT_FILE).read_bytes()
    (tmp_path / STEP_CHECKPOINT_FILE).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match="is cut short or not a checkpoint; restore a copy of it"):
        read_step_checkpoint(tmp_path)


def test_a_changed_byte_in_any_part_is_found(tmp_path: Path) -> None:
    saved(tmp_path)[0].wait()
    with zipfile.ZipFile(tmp_path / STEP_CHECKPOINT_FILE) as archive:
        parts = [(info.filename, info.header_offset, info.file_size) for info in archive.infolist() if info.file_size]
    whole = (tmp_path / STEP_CHECKPOINT_FILE).read_bytes()
    with zipfile.ZipFile(tmp_path / STEP_CHECKPOINT_FILE) as archive:
        contents = {name: archive.read(name) for name, _, _ in parts}
    for name, _, _ in parts:
        offset = whole.index(contents[name]) if len(contents[name]) > 8 else None
        if offset is None:
            continue
        changed = bytearray(whole)
        changed[offset + len(contents[name]) // 2] ^= 1
        (tmp_path / STEP_CHECKPOINT_FILE).write_bytes(bytes(changed))
        with pytest.raises(CheckpointError):
            read_step_checkpoint(tmp_path)


def test_any_changed_bit_is_found_or_has_no_effect(tmp_path: Path) -> None:
    values = torch.arange(1, 7.0)
    torch.save({"format": 1, "step": 3, "weights": {"a": values}}, tmp_path / STEP_CHECKPOINT_FILE)
    whole = (tmp_path / STEP_CHECKPOINT_FILE).read_bytes()
    directory = whole.index(b"PK\x01\x02")  # what precedes it is padding, or covered by the checksum of its part
    wrong = []
    for offset, bit in itertools.product(range(directory, len(whole)), range(8)):
        changed = bytearray(whole)
        changed[offset] ^= 1 << bit
        (tmp_path / STEP_CHECKPOINT_FILE).write_bytes(changed)
        try:
            content = read_step_checkpoint(tmp_path)
            assert content
            if not torch.equal(content["weights"]["a"], values):
                wrong.append((offset - directory, bit, "another tensor"))
        except CheckpointError:
            pass
        except Exception as fault:
            wrong.append((offset - directory, bit, type(fault).__name__))
    assert wrong == []


def empty_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w"):
        pass


@pytest.mark.parametrize(
    "write",
    [
        empty_zip,
        lambda path: torch.save(torch.ones(3), path),
        lambda path: torch.save([1], path),
        Path.mkdir,
        lambda path: path.write_bytes(b""),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_another_file_is_refused_in_one_sentence(tmp_path: Path, write: Any) -> None:
    write(tmp_path / STEP_CHECKPOINT_FILE)
    with pytest.raises(CheckpointError, match=STEP_CHECKPOINT_FILE):
        read_step_checkpoint(tmp_path)


class Trap:
    def __reduce__(self) -> Any:
        return (os.mkdir, ("executed",))


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for write in (
        lambda: torch.save({"format": Trap()}, STEP_CHECKPOINT_FILE),
        lambda: Path(STEP_CHECKPOINT_FILE).write_bytes(pickle.dumps(Trap())),
    ):
        write()
        with pytest.raises(CheckpointError):
            read_step_checkpoint(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_another_format_is_refused_with_its_number(tmp_path: Path) -> None:
    torch.save({"format": 99}, tmp_path / STEP_CHECKPOINT_FILE)
    with pytest.raises(CheckpointError, match="has the format 99"):
        read_step_checkpoint(tmp_path)


@pytest.mark.parametrize("change", ["fsync", "replace"])
@pytest.mark.parametrize(("number", "expected"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "read-only")])
def test_an_error_in_the_background_is_raised_by_the_next_save_and_the_last_checkpoint_remains(
    tmp_path: Path, change: str, number: int, expected: str
) -> None:
    checkpoint, model = saved(tmp_path)
    checkpoint.wait()

    def refuse(name: str) -> None:
        raise OSError(number, os.strerror(number))

    with watch_disk_changes(refuse, (change,)):
        save(checkpoint, model, 2)
        with pytest.raises(CheckpointError, match=expected) as raised:
            save(checkpoint, model, 3)
    assert str(tmp_path) in str(raised.value)
    content = read_step_checkpoint(tmp_path)
    assert content
    assert content["step"] == 1
    assert hidden_names(tmp_path) == []


def write_half(target: Path) -> None:
    with atomic_file(target) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError


def test_a_file_is_the_old_one_or_the_new_one_at_every_change_of_the_disk(tmp_path: Path) -> None:
    target, observed = tmp_path / "file", set()
    target.write_text("old")

    def observe(name: str) -> None:
        observed.add(target.read_text())

    with watch_disk_changes(observe), atomic_file(target) as temporary:
        temporary.write_text("new")
        observe("inside")
    assert observed <= {"old", "new"}
    assert "old" in observed
    assert target.read_text() == "new"
    with pytest.raises(ZeroDivisionError):
        write_half(target)
    assert target.read_text() == "new"
    assert hidden_names(tmp_path) == []


def test_a_large_checkpoint_is_written_at_once_and_its_size_printed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slm_train.checkpoints.step_checkpoint.MAX_BACKGROUND_BYTES", 0)
    printed: list[str] = []
    checkpoint, model = saved(tmp_path, printed=printed)
    content = read_step_checkpoint(tmp_path)  # without waiting
    assert content
    assert content["step"] == 1
    save(checkpoint, model, 2)
    assert len(printed) == 1
    assert "GB; --checkpoint_interval N" in printed[0]
    checkpoint, _ = saved(tmp_path, printed=printed, is_automatic=True)
    assert checkpoint.written == len(printed) == 1  # no advice is needed


def test_random_numbers_continue_after_restoring() -> None:
    state = random_state()
    first = (random.random(), float(np.random.rand()), float(torch.rand(())))
    set_random_state(state)
    assert (random.random(), float(np.random.rand()), float(torch.rand(()))) == first


@pytest.mark.parametrize("weights", [{"other": torch.zeros(3)}, {"bias": torch.zeros(4)}])
def test_weights_of_another_model_are_refused_and_nothing_is_loaded(weights: dict[str, torch.Tensor]) -> None:
    model = torch.nn.Linear(4, 3)
    before = model.weight.clone()
    with pytest.raises(CheckpointError, match="which this model does not have"):
        load_weights(model, {"weight": torch.zeros(3, 4), **weights})
    assert torch.equal(model.weight, before)
