"""Start-up of the real command: help, version and mistakes are fast and import nothing heavy."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

import slm_adapters

HEAVY = {"torch", "transformers", "peft", "bitsandbytes", "datasets", "pyarrow", "huggingface_hub"}
SCRIPT = Path(sys.executable).with_name("slm-adapters")


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["--help"], 0, "usage: slm-adapters"),
        (["merge", "--help"], 0, "slm-adapters merge outputs/lora outputs/lora-merged"),
        (["--version"], 0, f"slm-adapters {slm_adapters.__version__}"),
        (["inspect", "outputs", "--jsno"], 2, "slm-adapters: unrecognized arguments: --jsno; see slm-adapters --help"),
        ([], 2, "slm-adapters: the following arguments are required: COMMAND; see slm-adapters --help"),
    ],
    ids=["help", "help-of-a-command", "version", "mistyped-flag", "no-command"],
)
def test_help_version_and_mistakes_take_no_time(arguments: list[str], code: int, expected: str) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-X", "importtime", SCRIPT, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = ended.stderr.splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    messages = [line for line in lines if not line.startswith("import time:")]
    assert ended.returncode == code
    assert expected in (ended.stdout if code == 0 else "\n".join(messages))
    assert len(messages) == (1 if code else 0)
    assert "slm_adapters.cli" in imported
    assert HEAVY & imported == set()
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1  # seconds of CPU
