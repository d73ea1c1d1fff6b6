"""Apple's MPS has no float64: no tensor of it is created on the device, which an emulated device checks.

The places that compute in float64 move tensors to the CPU first: the sums of an evaluation, the comparisons that choose
a loss, and slm-kv's sampling of single rows. The matrices of rotations are composed on the device, in float32 there.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import slm_testing.forked as forked
from slm_testing.train.budget_runs import dynamic
from slm_testing.train.tiny_runs import Tiny

FLOWS = {"dynamic": dynamic, "trainer": Tiny.flags}
TRAINED = [("dynamic", "butterfly"), ("trainer", "lora")]
TRAINED += [
    pytest.param(flow, mode, marks=pytest.mark.slow)
    for flow, mode in [("dynamic", "baseline"), ("dynamic", "oft"), ("trainer", "butterfly_block")]
]


@pytest.mark.parametrize(("flow", "mode"), TRAINED)
def test_training_creates_no_float64_tensor_on_the_device(tiny: Tiny, tmp_path: Path, flow: str, mode: str) -> None:
    more = ("--mode", mode, "--max_steps", "2", "--use_cpu", "false", "--dataloader_pin_memory", "false")
    argv = FLOWS[flow](tiny, tmp_path / "run", *more, "--prompt", "One day")
    result = forked.run("slm_testing.train.without_float64", argv, tmp_path, ACCELERATE_TORCH_DEVICE="emulated")
    assert result.returncode == 0, result.stdout + result.stderr
    assert list((tmp_path / "run").glob("*.safetensors"))
