"""``slm-lab doctor`` on this machine, and which attention the engine uses."""

from __future__ import annotations

import subprocess
import sys

import torch

from gpu_checks.recorder import Recorder
from slm_kv import select_attention

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
KERNEL = "slm_kv.attention.gpu"


def run(recorder: Recorder) -> None:
    """Run the doctor, and look up the attention of each dtype."""
    completed = subprocess.run(
        [sys.executable, "-m", "slm_lab.cli", "doctor"], capture_output=True, text=True, check=False
    )
    print(completed.stdout, completed.stderr)
    name = torch.cuda.get_device_name(recorder.device) if recorder.on_gpu else "CPU"
    holds = name in " ".join(completed.stdout.split()) and "Traceback" not in completed.stderr
    recorder.claim("doctor", holds, f"exit code {completed.returncode}")
    modules = {str(dtype)[6:]: select_attention(recorder.device, dtype).__module__ for dtype in DTYPES}
    recorder.table("Attention by dtype", ["dtype", "module"], list(modules.items()))
    if recorder.on_gpu:
        recorder.claim("kernel", set(modules.values()) == {KERNEL}, ", ".join(sorted(set(modules.values()))))
    else:
        recorder.skip("kernel", "needs a CUDA device")
