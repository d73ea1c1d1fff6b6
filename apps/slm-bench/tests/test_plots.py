"""Plots: their files, whatever ending the user gives."""

from pathlib import Path

import pytest

from slm_bench.harness.comparison import Comparison, Row
from slm_bench.harness.plots import plot_comparisons
from slm_bench.harness.provenance import new_result
from slm_bench.harness.result_file import Findings

ROWS = (
    Row("with", {"speed / without": (2.0, 1.5, 2.5)}, {"tokens/s": 20.5, "same tokens": "yes"}),
    Row("without", {}, {"tokens/s": 10, "same tokens": "yes"}),
)


@pytest.mark.parametrize("ending", ["", ".png", ".svg"])
def test_a_plot_is_written_as_png_and_svg_whatever_its_ending(tmp_path: Path, ending: str) -> None:
    result = new_result("kv", {"model": "sample"}, Findings(comparisons=[Comparison("a cache", ROWS)]))
    written = plot_comparisons(result, tmp_path / "new" / f"kv.v2{ending}")
    assert written == [tmp_path / "new" / "kv.v2.png", tmp_path / "new" / "kv.v2.svg"]
    assert sorted((tmp_path / "new").iterdir()) == written
    assert written[0].read_bytes().startswith(b"\x89PNG")
    assert "<svg" in written[1].read_text()


def test_comparisons_without_ratios_are_not_plotted(tmp_path: Path) -> None:
    comparisons = [Comparison("a cache", ROWS), Comparison("no ratios", ROWS[1:])]
    result = new_result("kv", {"model": "sample"}, Findings(comparisons=comparisons))
    svg = plot_comparisons(result, tmp_path / "kv")[1].read_text()
    assert "a cache" in svg
    assert "no ratios" not in svg
