"""``slm-lab`` as a process: version, exports, and what is imported before it responds."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

import slm_lab

HEAVY = ("torch", "transformers", "peft", "datasets", "pyarrow", "bitsandbytes", "vllm")
PROGRAM = f"""
import sys
from slm_lab.cli import main
try:
    code = main()
finally:
    print("imported:", *sorted(set({HEAVY}) & sys.modules.keys()))
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("argv", "code", "output"),
    [
        (["--help"], 0, "check what works on this machine"),
        (["compare", "--help"], 0, "--max_minutes"),
        (["--version"], 0, f"slm-lab {slm_lab.__version__}"),
        (["runs", "--srot", "mode"], 2, "slm-lab runs has no flag '--srot'"),
        (["compare", "--max_stpes", "4"], 2, "--max_steps"),
        (["compare", "--max_steps", "4", "--lora_rnk", "8"], 2, "--lora_r?"),
        (["comprae"], 2, "'comprae'"),
        (["runs", "missing-folder"], 2, "does not exist"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_help_version_and_mistakes_respond_in_a_second_without_heavy_imports(
    argv: list[str], code: int, output: str
) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.run([sys.executable, "-c", PROGRAM, *argv], capture_output=True, text=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert process.returncode == code, process.stderr
    assert output in process.stdout + process.stderr
    assert process.stdout.splitlines()[-1] == "imported:"
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


def test_every_exported_name_can_be_imported() -> None:
    assert sorted(slm_lab.__all__) == sorted(slm_lab._EXPORTS)
    assert all(getattr(slm_lab, name).__name__ == name for name in slm_lab.__all__)
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        _ = slm_lab.missing
