"""A command in a fresh interpreter, and the heavy libraries that it imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

# Each takes a second or more of CPU to import, or imports one that does.
HEAVY_LIBRARIES = (
    "accelerate",
    "bitsandbytes",
    "datasets",
    "huggingface_hub",
    "matplotlib",
    "numba",
    "numpy",
    "peft",
    "pyarrow",
    "torch",
    "transformers",
    "vllm",
)
_PROGRAM = """
import sys
from {module} import main
try:
    code = main()
except SystemExit as stop:
    code = stop.code
print("imported:", *(name for name in {libraries!r} if name in sys.modules))
sys.exit(code)
"""


@dataclass(frozen=True)
class StartUp:
    """A finished command: exit code, output, and which of HEAVY_LIBRARIES it had imported."""

    code: int
    output: str
    errors: str
    heavy_imports: list[str]


def run_fresh(module: str, argv: Sequence[str]) -> StartUp:
    """Run ``main`` of ``module`` in a new interpreter.

    Args:
        module: For example ``slm_train.cli``.
        argv: The words after the command's name.
    """
    program = _PROGRAM.format(module=module, libraries=HEAVY_LIBRARIES)
    done = subprocess.run(
        [sys.executable, "-c", program, *argv], capture_output=True, text=True, timeout=60, check=False
    )
    output, marker, imported = done.stdout.rpartition("imported:")
    assert marker, done.stderr
    return StartUp(done.returncode, output, done.stderr, imported.split())
