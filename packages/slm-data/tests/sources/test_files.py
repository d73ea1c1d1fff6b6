"""The user's files: globs, refusals and their identity."""

from pathlib import Path

import pytest

from slm_data.errors import DataError
from slm_data.sources.files import files_identity, find_files


def test_globs_are_sorted_and_no_file_occurs_twice(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.txt", "a.txt", "deep/c.txt", "deep/[1].txt"):
        (tmp_path / name).write_text(name)
    patterns = [str(tmp_path / "a.txt"), str(tmp_path / "**/*.txt"), str(tmp_path / "deep/[1].txt")]
    names = [path.name for path in find_files(patterns, "train_file")]
    assert names == ["a.txt", "b.txt", "[1].txt", "c.txt"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("missing.txt", "no file"),
        ("*.jsonl", "matches no file"),
        ("empty.txt", "is empty"),
        ("folder", "is a folder"),
        ("a.docx", "unknown format '.docx'; supported are .txt, .jsonl"),
    ],
)
def test_an_unusable_file_is_refused(tmp_path: Path, name: str, expected: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.txt").touch()
    (tmp_path / "a.docx").write_text("x")
    with pytest.raises(DataError) as caught:
        find_files([str(tmp_path / name)], "train_file")
    assert expected in str(caught.value)
    assert name in str(caught.value)


def test_the_identity_changes_with_the_files(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    before = files_identity([path])
    assert files_identity([path]) == before
    path.write_text("other")
    assert files_identity([path]) != before
