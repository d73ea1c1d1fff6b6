"""The command line as a whole: version, imports at start-up, and errors of other packages."""

import subprocess
import sys
from importlib.metadata import version

import pytest

import slm_bench
from slm_adapters import AdapterError
from slm_bench import cli
from slm_bench.errors import BenchError
from slm_data import DataError
from slm_kv import KVError
from slm_serve import ServeError
from slm_testing.start_up import HEAVY_LIBRARIES, run_fresh
from slm_train import TrainError, UsageError


def test_the_version_is_the_one_of_its_metadata() -> None:
    # `uv version --bump` writes pyproject.toml alone.
    assert slm_bench.__version__ == version("slm-bench")


def test_the_import_loads_no_heavy_library() -> None:
    code = f"import sys, slm_bench; print(*set({HEAVY_LIBRARIES}) & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "\n"


@pytest.mark.parametrize(
    ("words", "exit_code", "expected"),
    [
        (["--help"], 0, "kv"),
        (["--version"], 0, f"slm-bench {slm_bench.__version__}"),
        *(([command, "--help"], 0, "--") for command in ("kv", "adapters", "train", "serve", "all", "report")),
        (["train", "--rouns", "3"], 2, "unrecognized arguments: --rouns"),
        (["kv", "--rounds", "0"], 2, "--rounds"),
    ],
)
def test_help_version_and_mistyped_flags_import_no_heavy_library(
    words: list[str], exit_code: int, expected: str
) -> None:
    ended = run_fresh("slm_bench.cli", words)
    assert ended.code == exit_code, ended.errors
    assert expected in ended.output + ended.errors
    assert ended.heavy_imports == []


@pytest.mark.parametrize("error", [BenchError, AdapterError, DataError, KVError, ServeError, TrainError, UsageError])
def test_errors_of_all_packages_are_one_sentence_and_exit_code_2(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: object) -> int:
        raise error("--model_path nowhere does not exist")

    monkeypatch.setattr(cli, "_run", fail)
    assert cli.main(["kv"]) == 2
    assert capsys.readouterr().err == "slm-bench: --model_path nowhere does not exist\n"


def test_other_exceptions_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(arguments: object) -> int:
        raise ValueError("a bug")

    monkeypatch.setattr(cli, "_run", fail)
    with pytest.raises(ValueError, match="a bug"):
        cli.main(["kv"])
