"""``slm-lab runs``: the table, sorting and the CSV file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_lab.cli import main
from slm_lab.runs.columns import COLUMNS
from slm_lab.runs.csv_file import format_cell
from slm_testing.lab.made_runs import write_run

Refused = Callable[..., str]


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    root = tmp_path / "outputs"
    write_run(root / "a", "lora", bits=1.2)
    write_run(root / "deep" / "b", "baseline", bits=1.1)
    write_run(root / "c", "butterfly", bits=1.3, status="running", evaluation={})
    broken = root / "broken"
    broken.mkdir()
    (broken / "run.json").write_text('{"mode": ')
    return root


def parse_rows(text: str) -> list[dict[str, str]]:
    return [*csv.DictReader(io.StringIO(text))]


def test_the_table_lists_every_run_and_reports_the_damaged_one(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", str(outputs)]) == 0
    captured = capsys.readouterr()
    assert [line.split()[0] for line in captured.out.splitlines()[1:4]] == ["a", "c", "deep/b"]
    assert "not finished: c (interrupted)" in captured.out
    assert "skipped broken/run.json: it is not valid JSON" in captured.err
    assert max(map(len, captured.out.splitlines())) <= 100


def test_columns_sort_both_ways_with_missing_values_last(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    orders = []
    for more in ([], ["--descending"]):
        assert main(["runs", str(outputs), "--sort", "bits_per_byte", "--csv", "-", *more]) == 0
        orders.append([row["folder"] for row in parse_rows(capsys.readouterr().out)])
    assert orders == [["deep/b", "a", "c"], ["a", "deep/b", "c"]]


def test_the_file_contains_every_column_as_plain_numbers(outputs: Path, tmp_path: Path) -> None:
    file = tmp_path / "new" / "runs.csv"
    assert main(["runs", str(outputs), "--csv", str(file)]) == 0
    rows = {row["folder"]: row for row in parse_rows(file.read_text())}
    assert set(rows["a"]) == {column.key for column in COLUMNS}
    assert (rows["a"]["trainable"], rows["a"]["bits_per_byte"], rows["c"]["bits_per_byte"]) == ("400000", "1.2", "")


def test_scores_of_tasks_are_columns(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = [{"task": "arc", "metric": "acc", "value": 0.25}, {"task": "arc", "metric": "acc_norm", "value": 0.5}]
    content = {"format": 1, "tasks": {"arc": {"scores": scores}}}
    (outputs / "a" / "eval.json").write_text(json.dumps(content), encoding="utf-8")
    assert main(["runs", str(outputs), "--sort", "arc acc_norm"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[0] == "a"  # the run with a score comes first
    below = lines[lines.index("") + 1 :]
    assert [line.split() for line in below[:2]] == [["folder", "arc"], ["a", "0.25"]]
    assert main(["runs", str(outputs), "--csv", "-"]) == 0
    rows = {row["folder"]: row for row in parse_rows(capsys.readouterr().out)}
    assert [rows[name]["arc acc_norm"] for name in ("a", "c")] == ["0.5", ""]


@given(st.text(max_size=20))
def test_no_text_of_a_record_is_written_as_a_formula(text: str) -> None:
    written = format_cell(text)
    assert not written.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert written.removeprefix("'") == text.removeprefix("'")


def test_negative_numbers_stay_numbers() -> None:
    assert format_cell(-1.5) == "-1.5"


def test_an_unknown_column_or_folder_is_refused(outputs: Path, refused: Refused) -> None:
    assert "--sort quality: there is no such column" in refused("runs", outputs, "--sort", "quality")
    assert "does not exist" in refused("runs", outputs / "gone")
    assert "cannot be written" in refused("runs", outputs / "a", "--csv", outputs)
    assert "slm-lab runs has no flag '--mode'" in refused("runs", outputs, "--mode")


def test_a_folder_without_runs_is_an_empty_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(tmp_path)]) == 0
    assert "no runs under" in capsys.readouterr().out
