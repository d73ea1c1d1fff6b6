"""Apple's MPS has no float64: no tensor of it is created on the device, which an emulated device checks.

The places that compute in float64 move tensors to the CPU first: the sums of an evaluation, the comparisons that choose
a loss, and slm-kv's sampling of single rows. The matrices of rotations are composed on the device, in float32 there.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import slm_testing.forked as forked
from slm_adapters.base.device import default_device, has_float64
from slm_train.cli import main

TRAINED = [("dynamic", "butterfly"), ("trainer", "lora")]
TRAINED += [
    pytest.param(flow, mode, marks=pytest.mark.slow)
    for flow, mode in [("dynamic", "baseline"), ("dynamic", "oft"), ("trainer", "butterfly_block")]
]
RUN = (
    *("--max_train_samples", "20", "--max_eval_samples", "2", "--block_size", "64", "--max_steps", "2"),
    *("--threads", "1", "--bf16", "false", "--dataloader_pin_memory", "false"),
)


def on_device(words: list[str], folder: Path) -> None:
    result = forked.run("slm_testing.workspace.without_float64", words, folder, ACCELERATE_TORCH_DEVICE="emulated")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(("flow", "mode"), TRAINED)
def test_training_creates_no_float64_tensor_on_the_device(tmp_path: Path, flow: str, mode: str) -> None:
    first = ["dynamic", "--target_tokens_per_step", "128"] if flow == "dynamic" else []
    more = ["--mode", mode, *RUN, "--prompt", "", "--output_dir", str(tmp_path / "run")]
    on_device(["train", *first, *more], tmp_path)
    assert list((tmp_path / "run").glob("*.safetensors"))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "butterfly"
    assert main(["--mode", "butterfly", *RUN, "--use_cpu", "--prompt", "", "--output_dir", str(folder)]) == 0
    return folder


@pytest.mark.parametrize("part", ["merge", "serve"])
def test_what_was_trained_is_merged_and_served_there_as_on_the_cpu(run_folder: Path, tmp_path: Path, part: str) -> None:
    on_device([part, str(run_folder)], tmp_path)


def test_the_default_device_is_the_accelerator_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_device().type == "cpu"
    monkeypatch.setattr(torch.xpu, "is_available", lambda: True)
    assert default_device().type == "xpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert default_device().type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert default_device().type == "cuda"
    assert not has_float64(torch.device("mps"))
    assert has_float64(torch.device("cuda"))
