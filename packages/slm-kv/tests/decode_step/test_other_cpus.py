"""The whole compiled step as it is compiled for CPUs without AVX-512."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# The engine compares the step's logits with the model's own in float32, rows alone and together.
CODE = """
import torch
from slm_kv import Engine
from slm_testing.zoo.models import build
torch.set_num_threads(2)
for dtype in (torch.float32, torch.bfloat16):
    with Engine(build("gemma2", dtype), max_pages=16) as engine:
        assert ", compiled decode step" in engine.summary, engine.summary
"""


@pytest.mark.slow("compiles all operations for another CPU")
@pytest.mark.parametrize("cpu", ["haswell", "generic"])
def test_a_step_compiled_for_another_cpu_has_the_logits_of_the_model(cpu: str) -> None:
    environment = os.environ | {
        "NUMBA_CPU_NAME": cpu,
        "NUMBA_CPU_FEATURES": "",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    subprocess.run([sys.executable, "-c", CODE], env=environment, check=True, timeout=240)
