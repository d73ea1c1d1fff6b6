"""Every command writes the same format, which reads back as it was written; other files are refused."""

import json
import math
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from slm_bench.cli import main
from slm_bench.harness.comparison import Comparison, Row
from slm_bench.harness.guarantees import Guarantee
from slm_bench.harness.interleaved_timing import Times
from slm_bench.harness.provenance import new_result
from slm_bench.harness.result_file import Findings, ForeignFile, ResultFile, read_result, save_result
from slm_bench.kv.engine import attention, prefix
from slm_bench.kv.engine import benchmark as engine
from slm_bench.serve import benchmark as serve
from slm_bench.serve import throughput
from slm_bench.serve.client.closed_loop import Reply
from slm_bench.serve.disconnects import Disconnects
from slm_testing.bench.command_runs import CommandRun, WriteResult

SETTINGS = {"model": "sample", "adapter": None, "dtype": "float32", "device": "cpu", "threads": 1, "rounds": 1}


def engine_result() -> ResultFile:
    ratio, times = (2.0, 1.5, 2.5), Times((0.1, 0.2))
    speeds = (engine.Speed("ours", 20, (1, 1, 1), 4, (0.1,)), engine.Speed("theirs", 10, ratio, 4, (0.2,)))
    works = [engine.WorkloadMeasurement(name, "of 8 tokens", 4, speeds) for name in ("4 mixed", "alone")]
    known = prefix.PrefixMeasurement(40, 32, times, times, ratio, True)
    pages = [attention.AttentionMeasurement(1, 20, times, times, ratio, 1e-7)]
    return new_result("kv --engine", SETTINGS, engine.collect(works, known, pages, {}))


def serve_result() -> ResultFile:
    turn = throughput.Turn(1.0, 24, (0.1, 0.2), (0.01, 0.02), 0.5, 0.1)
    ratios = {"slm-serve": (1, 1, 1), "vLLM": (2.0, 1.5, 2.5)}
    speeds = [throughput.ServerSpeed(name, ratio, (turn,)) for name, ratio in ratios.items()]
    findings = Findings({"speeds": speeds}, [throughput.compare(speeds)])
    left = Disconnects({"in the stream": 2}, {"slm_running": 0}, Reply(200, 0, 0, 6), 6)
    findings.add("disconnects", left, guarantees=left.guarantees)
    return new_result("serve", SETTINGS, findings)


@pytest.fixture(params=["kv", "kv --engine", "adapters", "train", "serve"])
def content(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What each command wrote; engine and server by figures made up here, since they take long."""
    name = request.param
    if name in ("kv", "adapters", "train"):
        run: CommandRun = request.getfixturevalue(f"{name}_run")
        assert run.exit_code == 0, run.out + run.err
        return run.result
    monkeypatch.setattr(engine, "measure", lambda arguments: engine_result())
    monkeypatch.setattr(serve, "measure", lambda arguments: serve_result())
    assert main([*name.split(), "--json", str(tmp_path / "run.json"), "--plot", str(tmp_path / "run")]) == 0
    return json.loads((tmp_path / "run.json").read_text()) | {"named": name}


def test_every_command_writes_what_it_measured_where_when_and_with_which_versions(content: dict[str, Any]) -> None:
    named = content.pop("named", content["benchmark"])
    names = ["slm_bench", "benchmark", "when", "machine", "versions", "settings", "results", "promises"]
    assert list(content) == names
    assert content["benchmark"] == named
    assert datetime.fromisoformat(content["when"]).utcoffset() is not None
    assert content["machine"]["cores"] >= 1
    assert content["machine"]["memory"] > 2**20
    assert {"cpu", "device"} <= content["machine"].keys()
    assert {"python", "torch", "transformers", "slm-bench"} <= content["versions"].keys()
    assert content["settings"]["model"]
    assert content["results"].keys() > {"comparisons", "left_out"}  # and the samples


def test_every_command_compares_contenders_by_ratios_within_their_spread(
    content: dict[str, Any], tmp_path: Path
) -> None:
    content.pop("named", None)
    (tmp_path / "read.json").write_text(json.dumps(content))
    comparisons = read_result(tmp_path / "read.json").results.comparisons
    assert comparisons
    for comparison in comparisons:
        assert comparison.ratio_names, comparison.title
        assert len({row.name for row in comparison.rows}) == len(comparison.rows), comparison.title
        for row in comparison.rows:
            assert all(0 < low <= median <= high for median, low, high in row.ratios.values()), row


def small_result(**samples: Any) -> ResultFile:
    row = Row("a", {"speed": (2.0, 1.0, 3.0)}, {"tokens/s": 1.5, "requests": 2, "same": "yes"})
    guarantee = Guarantee("it holds", True, "seen")
    findings = Findings(samples, [Comparison("contenders", (row,))], [guarantee], {"TRL": "reason"})
    return new_result("kv", {"model": "sample"}, findings)


def test_what_is_saved_reads_back_equal(tmp_path: Path) -> None:
    before = small_result(seconds=[0.25])
    save_result(before, tmp_path / "new" / "a.json")
    after = read_result(tmp_path / "new" / "a.json")
    assert (after.results.comparisons, after.guarantees, after.results.left_out) == (
        before.results.comparisons,
        before.guarantees,
        {"TRL": "reason"},
    )
    assert (after.when, after.versions) == (before.when, before.versions)
    assert after.results.model_extra == {"seconds": [0.25]}
    figures = json.loads((tmp_path / "new" / "a.json").read_text())["results"]["comparisons"][0]["rows"][0]["figures"]
    assert json.dumps(figures) == '{"tokens/s": 1.5, "requests": 2, "same": "yes"}'


def test_guarantees_have_the_keys_that_earlier_versions_wrote(tmp_path: Path) -> None:
    save_result(small_result(), tmp_path / "a.json")
    promises = json.loads((tmp_path / "a.json").read_text())["promises"]
    assert promises == [{"says": "it holds", "held": True, "seen": "seen"}]


def test_nan_and_infinity_leave_the_file_readable(tmp_path: Path) -> None:
    save_result(small_result(losses=(1.0, math.inf, math.nan), by_rate={0.06: Times((math.nan,))}), tmp_path / "a.json")
    samples = read_result(tmp_path / "a.json").results.model_extra
    assert samples == {"losses": [1.0, None, None], "by_rate": {"0.06": {"seconds": [None]}}}


def test_a_ratio_or_a_figure_that_was_not_finite_is_dropped(write_result: WriteResult) -> None:
    row = {"name": "a", "ratios": {"speed": [None, 1, 2], "time": [2, 1, 3]}, "figures": {"loss": None, "steps": 3}}
    results = {"comparisons": [{"title": "contenders", "rows": [row], "note": ""}]}
    (comparison,) = read_result(write_result("a.json", results=results)).results.comparisons
    assert comparison.rows == (Row("a", {"time": (2, 1, 3)}, {"steps": 3}),)


@pytest.mark.parametrize(
    "file", sorted(Path(__file__).parents[3].glob("docs/measured/*.json")), ids=lambda file: file.stem
)
def test_published_result_files_are_readable(file: Path) -> None:
    result = read_result(file)
    content = json.loads(file.read_text())
    assert len(result.results.comparisons) == len(content["results"]["comparisons"]) > 0
    assert len(result.guarantees) == len(content["promises"])
    assert json.loads(result.model_dump_json(by_alias=True)) == content


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"benchmark": 3}, "^benchmark is not what slm-bench writes"),
        ({"promises": [{"says": "it"}]}, "^promises.0.held is not what slm-bench writes: Field required"),
        ({"when": "yesterday"}, "^when is not what slm-bench writes"),
        ({"results": {"comparisons": [{"title": "a"}]}}, "^results.comparisons.0.rows is not what slm-bench writes"),
        (
            {"results": {"comparisons": [{"title": "a", "note": "", "rows": 3}]}},
            "^results.comparisons.0.rows is not what slm-bench writes",
        ),
    ],
)
def test_the_error_for_a_damaged_file_names_the_key(
    write_result: WriteResult, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(ForeignFile, match=message):
        read_result(write_result("a.json", **changed))


@pytest.mark.parametrize("ratio", [[2, 3, 4], [2, 0, 3], ["a", 1, 2], [1, 2]])
def test_a_ratio_outside_its_own_spread_is_refused(write_result: WriteResult, ratio: list[Any]) -> None:
    rows = [{"name": "a", "ratios": {"speed": ratio}, "figures": {}}]
    with pytest.raises(ForeignFile):
        read_result(
            write_result("a.json", results={"comparisons": [{"title": "contenders", "rows": rows, "note": ""}]})
        )


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"when": 1}', "\x00"])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ForeignFile):
        read_result(tmp_path / "a.json")
