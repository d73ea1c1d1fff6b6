"""``--help``, ``--version`` and mistyped flags answer at once: without importing torch or transformers."""

import resource
import subprocess
import sys

import pytest

import slm_kv

HEAVY = ("torch", "transformers", "peft", "bitsandbytes", "datasets", "pyarrow", "numba", "numpy")
# Runs the command as its console script does, and prints the heavy modules that it has imported.
PROGRAM = f"""
import sys
from slm_kv.paged import main
try:
    code = main(sys.argv[1:])
except SystemExit as exit:
    code = exit.code
print("imported:", *sorted(sys.modules.keys() & {set(HEAVY)!r}))
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("flags", "code", "output"),
    [
        (["--help"], 0, "usage: slm-paged"),
        (["--version"], 0, f"slm-paged {slm_kv.__version__}\n"),
        (["--max_new_token", "4", "--no_such_flag"], 2, "unrecognized arguments: --no_such_flag"),
        (["--threads", "none"], 2, "'none' is not a whole number of at least 1"),
        (["--temperature", "-1"], 2, "temperature=-1.0 is out of range"),
        (["--int8", "/no/such/file"], 2, "--int8 /no/such/file cannot be read as a text"),
    ],
)
def test_answers_that_need_no_model_import_nothing_heavy_and_take_under_a_second(
    flags: list[str], code: int, output: str
) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    completed = subprocess.run(
        [sys.executable, "-c", PROGRAM, *flags], capture_output=True, text=True, check=False, timeout=60
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert completed.returncode == code, completed.stderr
    assert output in completed.stdout + completed.stderr
    assert completed.stdout.splitlines()[-1] == "imported:"
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1
