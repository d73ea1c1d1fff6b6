"""Run folders at any depth and behind symbolic links."""

from __future__ import annotations

from pathlib import Path

from slm_lab.runs.discovery import find_runs
from slm_testing.lab.made_runs import write_run


def test_runs_are_found_at_any_depth_and_their_checkpoints_are_not_runs(tmp_path: Path) -> None:
    for path in ("a", "b/c", "b/c/d"):
        write_run(tmp_path / path)
    write_run(tmp_path / "a" / "checkpoint-4")
    write_run(tmp_path / ".hidden")
    assert [path.relative_to(tmp_path).as_posix() for path in find_runs(tmp_path)] == ["a", "b/c", "b/c/d"]
    assert [*find_runs(tmp_path / "a")] == [tmp_path / "a"]


def test_links_are_followed_and_no_folder_is_visited_twice(tmp_path: Path) -> None:
    write_run(tmp_path / "elsewhere" / "run")
    root = tmp_path / "root"
    root.mkdir()
    (root / "first").symlink_to(tmp_path / "elsewhere")
    (root / "second").symlink_to(tmp_path / "elsewhere")
    (root / "loop").symlink_to(root)
    (root / "nowhere").symlink_to(tmp_path / "gone")
    assert [*find_runs(root)] == [root / "first" / "run"]
