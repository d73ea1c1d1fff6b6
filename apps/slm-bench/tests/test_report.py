"""``slm-bench report`` on result files written by hand, as two machines would have left them."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from slm_bench.cli import main
from slm_bench.report.gathering import letters
from slm_bench.report.side_by_side import Line, SideBySide
from slm_testing.bench.command_runs import WriteResult

EVIL = "<script>alert('x')</script>"
OTHER = {"cpu": "Another processor", "cores": 64, "memory": 2**38, "device": "A GPU"}
VOID = {"meta", "line"}


class Page(HTMLParser):
    """The texts of a page; asserts that every element is closed, in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.rows: list[list[str]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.open += [] if tag in VOID else [tag]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data.strip()


def report(tmp_path: Path, *more: str) -> tuple[Page, str]:
    file = tmp_path / "page" / "report.html"
    assert main(["report", str(tmp_path / "runs"), *more, "--html", str(file)]) == 0
    html = file.read_text()
    return Page(html), html


def test_two_machines_appear_side_by_side(
    tmp_path: Path, write_result: WriteResult, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"name": "with", "ratios": {"speed / without": [1.5, 1.25, 1.75]}, "figures": {"tokens/s": 99}}]
    write_result("here.json")
    results = {"comparisons": [{"title": "a cache", "rows": rows, "note": ""}]}
    write_result("deep/there.json", machine=OTHER, when="2026-02-02T03:04:05+00:00", results=results)
    page, html = report(tmp_path)
    assert ["A", "A processor", "2", "8 GiB", "cpu", "–"] in page.rows
    assert ["B", "Another processor", "64", "256 GiB", "A GPU", "–"] in page.rows
    assert ["with", "A", "3.00x (2.50 to 3.50)", "", "30.5", "2 MB"] in page.rows
    assert ["with", "B", "1.50x (1.25 to 1.75)", "", "99", ""] in page.rows
    assert ["without", "A", "", "", "10", ""] in page.rows
    assert html.count("<svg") == 2
    printed = capsys.readouterr().out
    assert "Another processor" in printed
    assert "3.00x (2.50 to 3.50)" in printed


def test_the_page_loads_nothing_from_elsewhere(tmp_path: Path, write_result: WriteResult) -> None:
    write_result("a.json")
    page, html = report(tmp_path)
    assert not page.tags & {"script", "link", "img", "iframe"}
    assert not re.search(r"https?:|url\(|@import", html)


def test_html_in_a_result_file_is_escaped(tmp_path: Path, write_result: WriteResult) -> None:
    row = {"name": EVIL, "ratios": {EVIL: [1, 1, 1]}, "figures": {f"{EVIL}1": EVIL}}
    write_result(
        "a.json",
        benchmark=EVIL,
        machine={"cpu": EVIL, EVIL: EVIL},
        versions={EVIL: EVIL},
        settings={EVIL: [EVIL]},
        results={"comparisons": [{"title": EVIL, "rows": [row], "note": EVIL}], "left_out": {EVIL: EVIL}},
        promises=[{"says": EVIL, "held": True, "seen": EVIL}],
    )
    write_result(f"{EVIL.replace('/', '')}.json").write_text(EVIL)
    page, html = report(tmp_path)
    assert "script" not in page.tags
    assert "<script" not in html
    assert "alert(&#39;x&#39;)" in html


def test_damaged_and_foreign_files_are_named_and_skipped(
    tmp_path: Path, write_result: WriteResult, capsys: pytest.CaptureFixture[str]
) -> None:
    write_result("good.json")
    write_result("torn.json").write_text('{"slm_bench": "0.4.0", "bench')
    write_result("config.json").write_text('{"model_type": "gpt2"}')
    _, html = report(tmp_path)
    printed = capsys.readouterr().err
    for name, reason in (("torn.json", "not readable as JSON"), ("config.json", "not written by slm-bench")):
        assert re.search(rf"{name} is skipped: {reason}", printed)
        assert name in html


def test_a_broken_guarantee_is_marked(tmp_path: Path, write_result: WriteResult) -> None:
    write_result("a.json", promises=[{"says": "nothing is lost", "held": False, "seen": "3 lost"}])
    assert '<li class="broken"><strong>BROKEN</strong>' in report(tmp_path)[1]


def test_runs_of_one_machine_are_numbered_whatever_its_load_was(tmp_path: Path, write_result: WriteResult) -> None:
    machine = {"cpu": "A processor", "cores": 2, "memory": 8 * 2**30, "device": "cpu"}
    write_result("first.json")
    write_result("second.json", when="2026-01-03T03:04:05+00:00", machine=machine | {"load_average": [9]})
    page, _ = report(tmp_path)
    assert [row[:2] for row in page.rows if row[0] == "with"] == [["with", "A1"], ["with", "A2"]]
    assert len([row for row in page.rows if "A processor" in row]) == 1


def test_a_file_that_is_named_twice_is_read_once(tmp_path: Path, write_result: WriteResult) -> None:
    page, _ = report(tmp_path, str(write_result("a.json")))
    assert len([row for row in page.rows if row[0] == "with"]) == 1


@pytest.mark.parametrize("name", ["no/such/folder", "empty", "foreign"])
def test_nothing_to_report_is_one_sentence_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text("{}")
    assert main(["report", str(tmp_path / name), "--html", str(tmp_path / "page.html")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"slm-bench: {tmp_path / name}")
    assert not (tmp_path / "page.html").exists()


def test_half_and_double_are_drawn_equally_far_from_level() -> None:
    lines = tuple(Line("a", "A", (ratio, ratio, ratio), (), True) for ratio in (0.5, 2.0))
    table = SideBySide("contenders", ("speed",), (), lines)
    assert table.position(1) - table.position(0.5) == pytest.approx(table.position(2) - table.position(1))
    assert 0 < table.position(0.5) < table.position(2) < 1


def test_machines_never_run_out_of_letters() -> None:
    assert [letters(number) for number in (0, 25, 26, 27, 52)] == ["A", "Z", "AA", "AB", "BA"]
