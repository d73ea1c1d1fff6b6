"""``slm-lab doctor`` on this machine, and which attention the engine uses."""

from __future__ import annotations

import subprocess
import sys

import torch

from gpu_checks.engine_features import attention_name
from gpu_checks.recorder import Recorder

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def run(recorder: Recorder) -> None:
    """Run the doctor, and look up the attention of each dtype."""
    completed = subprocess.run(
        [sys.executable, "-m", "slm_lab.cli", "doctor"], capture_output=True, text=True, check=False
    )
    print(completed.stdout, completed.stderr)
    name = torch.cuda.get_device_name(recorder.device) if recorder.on_gpu else "CPU"
    holds = name in " ".join(completed.stdout.split()) and "Traceback" not in completed.stderr
    recorder.claim("doctor", holds, f"exit code {completed.returncode}")
    names = {str(dtype)[6:]: attention_name(recorder.device, dtype) for dtype in DTYPES}
    recorder.table("Attention by dtype", ["dtype", "attention"], list(names.items()))
    if recorder.on_gpu:
        observed = "; ".join(dict.fromkeys(names.values()))
        recorder.claim("kernel", all(name.startswith("Triton") for name in names.values()), observed)
    else:
        recorder.skip("kernel", "needs a CUDA device")
