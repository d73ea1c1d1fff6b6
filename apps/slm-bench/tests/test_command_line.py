"""The command line as a whole: version, start-up time, and errors of other packages."""

import resource
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
from slm_train import TrainError, UsageError

HEAVY = "{'torch', 'transformers', 'peft', 'datasets', 'pyarrow', 'matplotlib', 'vllm'}"
RUN = f"""
import sys
from slm_bench.cli import main
try:
    main(sys.argv[1:])
finally:
    print("heavy:", *({HEAVY} & sys.modules.keys()))
"""


def test_the_version_is_the_one_of_its_metadata() -> None:
    # `uv version --bump` writes pyproject.toml alone.
    assert slm_bench.__version__ == version("slm-bench")


def test_the_import_loads_no_heavy_library() -> None:
    code = f"import sys, slm_bench; print(*{HEAVY} & sys.modules.keys())"
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
def test_help_version_and_mistyped_flags_take_under_a_second_and_load_no_heavy_library(
    words: list[str], exit_code: int, expected: str
) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", RUN, *words], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == exit_code
    assert expected in done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "heavy:"
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


@pytest.mark.parametrize("error", [BenchError, AdapterError, DataError, KVError, TrainError, UsageError])
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
