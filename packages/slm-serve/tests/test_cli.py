"""Flags of ``slm-serve``: help, version, invalid values, and a start without heavy imports."""

import json
import subprocess
import sys
from collections.abc import Sequence

import pytest

from slm_serve import Settings, __version__
from slm_serve.cli import main

HEAVY = {"torch", "transformers", "peft", "bitsandbytes", "datasets", "pyarrow", "vllm", "fastapi", "uvicorn"}
# Runs the command as the installed script does, and prints the modules and CPU seconds that it took.
PROBE = """
import json, sys, time
from slm_serve.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code
print("\\n" + json.dumps([code, time.process_time(), sorted(sys.modules)]))
"""


@pytest.mark.parametrize(
    ("flags", "code"),
    [(["--help"], 0), (["--version"], 0), (["--prot", "80"], 2), (["--port", "70000"], 2), (["--adapter", "x"], 2)],
    ids=str,
)
def test_help_version_and_mistakes_respond_within_a_second_without_heavy_imports(
    flags: Sequence[str], code: int
) -> None:
    done = subprocess.run([sys.executable, "-c", PROBE, *flags], capture_output=True, text=True, check=True)
    exit_code, cpu_seconds, modules = json.loads(done.stdout.splitlines()[-1])
    assert exit_code == code
    assert HEAVY & set(modules) == set()
    assert cpu_seconds < 1


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"slm-serve {__version__}\n"


def test_the_help_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    assert all(f"--{name}" in printed for name in Settings.model_fields)
    assert " 1 %" in printed
    assert "%%" not in printed


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--port", "70000"], "port: Input should be less than or equal to 65535"),
        (["--max_pages", "0"], "max_pages: Input should be greater than or equal to 1"),
        (["--adapter", "nameless"], "adapter: 'nameless' is not of the form name=path"),
        (["--adapter", "a b=c"], "adapter: 'a b' is not a valid name"),
        (["--adapter", "a=b", "--adapter", "a=c"], "two adapters have the same name (a, a); rename one"),
        (["--api_key", " "], "api_key: the key is empty"),
        (["--request_timeout", "0"], "request_timeout: Input should be greater than 0"),
    ],
)
def test_an_invalid_flag_is_rejected_in_one_sentence(
    capsys: pytest.CaptureFixture[str], flags: Sequence[str], sentence: str
) -> None:
    assert main(flags) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"slm-serve: {sentence}")
    assert printed.count("\n") == 1
