from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_lab.cli import main
from slm_lab.listing import BY_KEY, _plain

MakeRun = Callable[..., Path]
Refused = Callable[..., str]


@pytest.fixture
def outputs(tmp_path: Path, make_run: MakeRun) -> Path:
    root = tmp_path / "outputs"
    make_run(root / "a", "lora", bits=1.2)
    make_run(root / "deep" / "b", "baseline", bits=1.1)
    make_run(root / "c", "butterfly", bits=1.3, status="running", evaluation={})
    broken = root / "broken"
    broken.mkdir()
    (broken / "run.json").write_text('{"mode": ')
    return root


def rows(text: str) -> list[dict[str, str]]:
    return [*csv.DictReader(io.StringIO(text))]


def test_the_table_names_every_run_and_the_damaged_one_is_said(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", str(outputs)]) == 0
    said = capsys.readouterr()
    assert [line.split()[0] for line in said.out.splitlines()[1:4]] == ["a", "c", "deep/b"]
    assert "not finished: c (running)" in said.out
    assert "broken/run.json is passed over: it is not valid JSON" in said.err
    assert max(map(len, said.out.splitlines())) <= 100


def test_columns_sort_both_ways_and_what_has_no_value_comes_last(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []
    for more in ([], ["--descending"]):
        assert main(["runs", str(outputs), "--sort", "bits_per_byte", "--csv", "-", *more]) == 0
        seen.append([row["folder"] for row in rows(capsys.readouterr().out)])
    assert seen == [["deep/b", "a", "c"], ["a", "deep/b", "c"]]


def test_the_file_has_every_column_as_plain_numbers(outputs: Path, tmp_path: Path) -> None:
    file = tmp_path / "new" / "runs.csv"
    assert main(["runs", str(outputs), "--csv", str(file)]) == 0
    found = {row["folder"]: row for row in rows(file.read_text())}
    assert set(found["a"]) == set(BY_KEY)
    assert (found["a"]["trainable"], found["a"]["bits_per_byte"], found["c"]["bits_per_byte"]) == ("400000", "1.2", "")


@given(st.text(max_size=20))
def test_no_text_of_a_record_reaches_a_spreadsheet_as_a_formula(text: str) -> None:
    written = _plain(text)
    assert not written.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert written.removeprefix("'") == text.removeprefix("'")


def test_numbers_below_zero_stay_numbers() -> None:
    assert _plain(-1.5) == "-1.5"


def test_an_unknown_column_or_folder_is_refused(outputs: Path, refused: Refused) -> None:
    assert "--sort quality: there is no such column" in refused("runs", outputs, "--sort", "quality")
    assert "there is no folder" in refused("runs", outputs / "gone")
    assert "cannot be written" in refused("runs", outputs / "a", "--csv", outputs)
    assert "'--mode' is no flag of slm-lab runs" in refused("runs", outputs, "--mode")


def test_a_folder_without_runs_is_an_empty_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(tmp_path)]) == 0
    assert "no finished or started runs" in capsys.readouterr().out
