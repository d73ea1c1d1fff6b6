"""The user's files: globs, folders, refusals and short names."""

from pathlib import Path

import pytest

from slm_data.errors import DataError
from slm_data.sources.file_formats import name_of_source
from slm_data.sources.files import find_files


def test_globs_are_sorted_and_no_file_occurs_twice(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.txt", "a.txt", "deep/c.txt", "deep/[1].txt"):
        (tmp_path / name).write_text(name)
    patterns = [str(tmp_path / "a.txt"), str(tmp_path / "**/*.txt"), str(tmp_path / "deep/[1].txt")]
    names = [path.name for path in find_files(patterns, "train_file").paths]
    assert names == ["a.txt", "b.txt", "[1].txt", "c.txt"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("missing.txt", "no file"),
        ("*.jsonl", "matches no file"),
        ("empty.txt", "is empty"),
        ("folder", "contains no file to read; supported are .txt"),
        ("unreadable", "contains no file to read, only 1 other; supported are .txt"),
        ("a.docx", "unknown format '.docx'; supported are .txt, .jsonl"),
        ("a.docx.gz", "unknown format '.docx.gz'"),
    ],
)
def test_an_unusable_file_is_refused(tmp_path: Path, name: str, expected: str) -> None:
    for folder in ("folder", "unreadable"):
        (tmp_path / folder).mkdir()
    for file in ("a.docx", "a.docx.gz", "unreadable/b.docx"):
        (tmp_path / file).write_text("x")
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DataError) as caught:
        find_files([str(tmp_path / name)], "train_file")
    assert expected in str(caught.value)
    assert name in str(caught.value)


def test_a_folder_is_read_recursively_and_what_is_skipped_is_counted(tmp_path: Path) -> None:
    for name in ("b.md", "a/z.py", "a/y.jsonl.gz", "a/.hidden.txt", ".git/config.txt", "logo.png", "a/LICENSE"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "a" / "__init__.py").touch()
    found = find_files([str(tmp_path)], "train_file")
    assert [str(path.relative_to(tmp_path)) for path in found.paths] == ["a/y.jsonl.gz", "a/z.py", "b.md"]
    (note,) = found.notes
    assert "3 files" in note
    assert "4 skipped" in note  # of the folder .git there is nothing to say
    assert all(suffix in note for suffix in (".md", ".py", ".jsonl.gz"))


def test_a_file_with_two_names_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.txt").symlink_to(tmp_path / "a.txt")
    found = find_files([str(tmp_path / "." / "b.txt"), str(tmp_path)], "train_file")
    assert [path.name for path in found.paths] == ["b.txt"]


def test_a_link_to_the_folder_itself_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert [path.name for path in find_files([str(tmp_path)], "train_file").paths] == ["a.txt"]


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("texts/stories.jsonl", "stories"),
        ("texts/stories.v2.JSONL.GZ", "stories.v2"),
        ("texts/my.corpus/", "my.corpus"),
        ("texts/stories-*.jsonl", "stories"),
        ("texts/**/*.py", "texts"),
    ],
)
def test_a_source_has_a_short_name(pattern: str, name: str) -> None:
    assert name_of_source(pattern) == name


def test_the_short_name_of_the_current_folder_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "novels").mkdir()
    monkeypatch.chdir(tmp_path / "novels")
    assert name_of_source(".") == name_of_source("*.txt") == "novels"
