"""Commands run once for all tests that check their output; result files written by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from slm_testing.bench.command_runs import SMALL_ADAPTERS, SMALL_TRAIN, CommandRun, WriteResult, run_bench


@pytest.fixture(scope="session")
def kv_run(tmp_path_factory: pytest.TempPathFactory) -> CommandRun:
    words = ["--lengths", "8,4", "--batch_size", "2", "--rounds", "1", "--threads", "1", "--prompt", "Once upon a time"]
    return run_bench(tmp_path_factory.mktemp("kv"), "kv", *words)


@pytest.fixture(scope="session")
def adapters_run(tmp_path_factory: pytest.TempPathFactory) -> CommandRun:
    quality = ["--quality", "--steps", "1", "--methods", "butterfly-auto", "--ranks", "1"]
    return run_bench(tmp_path_factory.mktemp("adapters"), "adapters", *SMALL_ADAPTERS, *quality)


@pytest.fixture(scope="session")
def train_run(tmp_path_factory: pytest.TempPathFactory) -> CommandRun:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("slm_bench.train.budget.find_spec", lambda name: None)  # importing TRL takes long
        return run_bench(tmp_path_factory.mktemp("train"), "train", *SMALL_TRAIN, "--rounds", "1", "--threads", "1")


@pytest.fixture
def write_result(tmp_path: Path) -> WriteResult:
    """Write a result file by hand, as another machine would have left it."""

    def write(name: str, **changed: Any) -> Path:
        ratio = {"speed / without": [3.0, 2.5, 3.5]}
        rows = [
            {"name": "with", "ratios": ratio, "figures": {"tokens/s": 30.5, "cache": "2 MB"}},
            {"name": "without", "ratios": {}, "figures": {"tokens/s": 10}},
        ]
        content: dict[str, Any] = {
            "slm_bench": "0.4.0",
            "benchmark": "kv",
            "when": "2026-01-02T03:04:05+00:00",
            "machine": {"cpu": "A processor", "cores": 2, "memory": 8 * 2**30, "device": "cpu", "load_average": [1]},
            "versions": {"torch": "2.13.0"},
            "settings": {"model": "sample", "dtype": "float32"},
            "results": {"comparisons": [{"title": "a cache", "rows": rows, "note": ""}], "left_out": {}},
            "promises": [{"says": "nothing is lost", "held": True, "seen": "0 lost"}],
        }
        file = tmp_path / "runs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content | changed))
        return file

    return write
