"""A damaged checkpoint is found, reported, and skipped for the newest complete one."""

from __future__ import annotations

import errno
import itertools
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_testing.train.checkpoint_folders import fail_if_skipped, save
from slm_train.checkpoints.files.atomic_write import atomic_folder
from slm_train.checkpoints.files.manifest import MANIFEST, find_fault
from slm_train.checkpoints.retention import latest_complete, list_checkpoints

FILES = st.dictionaries(st.sampled_from(["a", "b.pt", "in/c"]), st.binary(max_size=300), min_size=1)


@settings(max_examples=40, deadline=None)
@given(files=FILES, data=st.data())
def test_any_cut_changed_or_added_byte_and_any_missing_file_is_found(
    files: dict[str, bytes], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch, "checkpoint-1")
        with atomic_folder(target) as temporary:
            for name, content in files.items():
                (temporary / name).parent.mkdir(exist_ok=True)
                (temporary / name).write_bytes(content)
        assert find_fault(target) is None
        for _ in range(5):
            name = data.draw(st.sampled_from([*files, MANIFEST]))
            original = (target / name).read_bytes()
            damage = data.draw(st.sampled_from(["cut", "flip", "add", "remove"] if original else ["add", "remove"]))
            offset = data.draw(st.integers(0, max(0, len(original) - 1)))
            if damage == "cut":
                (target / name).write_bytes(original[:offset])
            elif damage == "flip":
                other = original[offset] ^ data.draw(st.integers(1, 255))
                (target / name).write_bytes(original[:offset] + bytes([other]) + original[offset + 1 :])
            elif damage == "add":
                (target / name).write_bytes(original + b"\n")
            else:
                (target / name).unlink()
            reason = find_fault(target)
            assert reason is not None
            assert name in reason or reason == "no manifest"
            (target / name).write_bytes(original)
        assert find_fault(target) is None


def test_every_single_byte_of_the_manifest_counts(tmp_path: Path) -> None:
    target = save(tmp_path, 1)
    original = (target / MANIFEST).read_bytes()
    for offset, bit in itertools.product(range(len(original)), (1, 32)):
        (target / MANIFEST).write_bytes(original[:offset] + bytes([original[offset] ^ bit]) + original[offset + 1 :])
        assert find_fault(target) == "manifest.json is damaged, or of another version", (offset, bit)


def test_a_fault_names_what_is_wrong(tmp_path: Path) -> None:
    target, weights = save(tmp_path, 1), tmp_path / "checkpoint-1" / "model.safetensors"
    weights.write_text("weights 2")
    assert find_fault(target) == "hash of model.safetensors differs"
    weights.write_text("wei")
    assert find_fault(target) == "model.safetensors is 3 of 9 bytes"
    weights.unlink()
    assert find_fault(target) == "model.safetensors is missing"
    (target / MANIFEST).write_text("[]")
    assert find_fault(target) == "manifest.json is damaged, or of another version"
    (target / MANIFEST).unlink()
    assert find_fault(target) == "no manifest"
    assert find_fault(tmp_path / "checkpoint-2") == "there is no such folder"


def test_a_file_that_cannot_be_read_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = save(tmp_path, 1)

    def refuse(content: Any, name: str) -> None:
        raise OSError(errno.EIO, "Input/output error", content.name)

    monkeypatch.setattr("slm_train.checkpoints.files.manifest.hashlib.file_digest", refuse)
    assert "cannot be read: Input/output error" in (find_fault(target) or "")


def test_the_newest_complete_checkpoint_is_found_and_each_skipped_one_is_printed(tmp_path: Path) -> None:
    for step in (8, 9, 10, 11):
        save(tmp_path, step)
    (tmp_path / "checkpoint-12").mkdir()
    (tmp_path / "checkpoint-final").mkdir()
    (tmp_path / "checkpoint-13").write_text("a file")
    (tmp_path / "checkpoint-11" / "model.safetensors").write_text("")
    printed: list[str] = []
    assert latest_complete(tmp_path, printed.append) == tmp_path / "checkpoint-10"
    assert printed == [
        f"skipping {tmp_path / 'checkpoint-12'}: no manifest",
        f"skipping {tmp_path / 'checkpoint-11'}: model.safetensors is 0 of 10 bytes",
    ]
    assert [path.name for path in list_checkpoints(tmp_path)] == [f"checkpoint-{n}" for n in range(8, 13)]


def test_a_run_without_checkpoints_has_no_newest(tmp_path: Path) -> None:
    assert latest_complete(tmp_path, fail_if_skipped) is None
    assert list_checkpoints(tmp_path / "never made") == []
