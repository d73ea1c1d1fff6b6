"""Every command writes one form, which is read again as it was; what is another is refused."""

import json
import math
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from slm_bench.cli import main
from slm_bench.comparison import Comparison, Row
from slm_bench.engine import attention, prefix
from slm_bench.engine import bench as engine
from slm_bench.engine.report import Answered, Speed
from slm_bench.engine.report import Found as EngineFound
from slm_bench.envelope import Envelope, Foreign, read, save
from slm_bench.promises import Promise
from slm_bench.sealing import seal
from slm_bench.serve import bench as serve
from slm_bench.serve.disconnects import Disconnects
from slm_bench.serve.load import Reply
from slm_bench.serve.report import Found as ServeFound
from slm_bench.serve.throughput import Speed as ServerSpeed
from slm_bench.serve.throughput import Turn
from slm_bench.turns import Times
from slm_testing.bench.bench_runs import Done, Write

SETTING = {"model": "sample", "adapter": None, "dtype": "float32", "device": "cpu", "threads": 1, "rounds": 1}


def engine_found() -> EngineFound:
    ratio, times = (2.0, 1.5, 2.5), Times((0.1, 0.2))
    ways = (Speed("ours", 20, (1, 1, 1), 4, (0.1,)), Speed("theirs", 10, ratio, 4, (0.2,)))
    known = prefix.Measured(40, 32, times, times, ratio, True)
    pages = [attention.Measured(1, 20, times, times, ratio, 1e-7)]
    works = [Answered(name, "of 8 tokens", 4, ways) for name in ("4 mixed", "alone")]
    return EngineFound(SETTING, works, known, pages)


def serve_found() -> ServeFound:
    turn = Turn(1.0, 24, (0.1, 0.2), (0.01, 0.02), 0.5, 0.1)
    speeds = [ServerSpeed("slm-serve", (1, 1, 1), (turn,)), ServerSpeed("vLLM", (2.0, 1.5, 2.5), (turn,))]
    sizes = dict.fromkeys(("server_core", "client_core", "requests", "concurrency", "prompt_tokens", "new_tokens"), 1)
    left = Disconnects({"in the stream": 2}, {"slm_running": 0}, Reply(200, 0, 0, 6), 6)
    return ServeFound(SETTING | sizes, speeds, disconnects=left)


@pytest.fixture(params=["kv", "kv --engine", "adapters", "train", "serve"])
def envelope(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What each command wrote; engine and server by figures made by hand, since they take long."""
    name = request.param
    if name in ("kv", "adapters", "train"):
        done: Done = request.getfixturevalue(f"{name}_run")
        assert done.code == 0, done.out + done.err
        return done.found
    monkeypatch.setattr(engine, "measure", lambda given, sizes: engine_found())
    monkeypatch.setattr(serve, "measure", lambda given, sizes: serve_found())
    assert main([*name.split(), "--json", str(tmp_path / "run.json"), "--plot", str(tmp_path / "run")]) == 0
    return json.loads((tmp_path / "run.json").read_text()) | {"named": name}


def test_every_command_says_what_it_measured_where_when_and_by_which_versions(envelope: dict[str, Any]) -> None:
    named = envelope.pop("named", envelope["benchmark"])
    names = ["slm_bench", "benchmark", "when", "machine", "versions", "settings", "results", "promises"]
    assert list(envelope) == names
    assert envelope["benchmark"] == named
    assert datetime.fromisoformat(envelope["when"]).utcoffset() is not None
    assert envelope["machine"]["cores"] >= 1
    assert envelope["machine"]["memory"] > 2**20
    assert {"cpu", "device"} <= envelope["machine"].keys()
    assert {"python", "torch", "transformers", "slm-bench"} <= envelope["versions"].keys()
    assert envelope["settings"]["model"]
    assert envelope["results"].keys() > {"comparisons", "left_out"}  # and the samples


def test_every_command_compares_ways_by_ratios_that_lie_in_their_spread(
    envelope: dict[str, Any], tmp_path: Path
) -> None:
    envelope.pop("named", None)
    (tmp_path / "read.json").write_text(json.dumps(envelope))
    found = read(tmp_path / "read.json").comparisons
    assert found
    for one in found:
        assert one.ratio_names, one.title
        assert len({row.name for row in one.rows}) == len(one.rows), one.title
        for row in one.rows:
            assert all(0 < least <= median <= most for median, least, most in row.ratios.values()), row


def sealed(**samples: Any) -> Envelope:
    row = Row("a", {"speed": (2.0, 1.0, 3.0)}, {"tokens/s": 1.5, "same": "yes"})
    promise = Promise("it holds", True, "seen")
    return seal("kv", {"model": "sample"}, samples, [Comparison("ways", (row,))], [promise], left_out={"TRL": "why"})


def test_what_is_saved_is_read_again(tmp_path: Path) -> None:
    before = sealed(seconds=[0.25])
    save(before, tmp_path / "made" / "a.json")
    after = read(tmp_path / "made" / "a.json")
    assert (after.comparisons, after.promises, after.left_out) == (
        before.comparisons,
        before.promises,
        {"TRL": "why"},
    )
    assert (after.when, after.versions, after.results["seconds"]) == (before.when, before.versions, [0.25])


def test_a_number_that_is_none_leaves_the_file_readable(tmp_path: Path) -> None:
    save(sealed(losses=(1.0, math.inf, math.nan)), tmp_path / "a.json")
    assert read(tmp_path / "a.json").results["losses"] == [1.0, None, None]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"benchmark": 3}, "'benchmark' is missing"),
        ({"promises": [{"says": "it"}]}, "its results are not"),
        ({"when": "yesterday"}, "its results are not"),
        ({"results": {"comparisons": [{"title": "a"}]}}, "its results are not"),
        ({"results": {"comparisons": [{"title": "a", "note": "", "rows": 3}]}}, "its results are not"),
    ],
)
def test_an_envelope_that_was_damaged_says_where(written: Write, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(Foreign, match=message):
        read(written("a.json", **changed))


@pytest.mark.parametrize("ratio", [[2, 3, 4], [2, 0, 3], ["a", 1, 2], [1, 2]])
def test_a_ratio_outside_its_own_spread_is_refused(written: Write, ratio: list[Any]) -> None:
    rows = [{"name": "a", "ratios": {"speed": ratio}, "figures": {}}]
    with pytest.raises(Foreign):
        read(written("a.json", results={"comparisons": [{"title": "ways", "rows": rows, "note": ""}]}))


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"when": 1}', "\x00"])
def test_a_file_of_something_else_is_foreign(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(Foreign):
        read(tmp_path / "a.json")
