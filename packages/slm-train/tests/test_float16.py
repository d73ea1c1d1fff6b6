"""float16 with a loss scale, for GPUs without bfloat16. accelerate scales on GPUs only; here it does on the CPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from slm_testing.train.budget_runs import dynamic
from slm_testing.train.tiny_runs import Tiny, read_record
from slm_train import SlmTrainer
from slm_train.arguments import SlmTrainingArguments, autocast_dtype
from slm_train.cli import main
from slm_train.command_line import parsing
from slm_train.command_line.parsing import parse_arguments
from slm_train.hardware import device_defaults as defaults
from slm_train.hardware.device_defaults import DeviceDefaults, device_defaults

FLOWS = pytest.mark.parametrize("flags", [dynamic, Tiny.flags], ids=["dynamic", "trainer"])
FIRST_SCALE = 2.0**12
RATE = ("--learning_rate", "1e-3", "--lr_scheduler_type", "linear", "--lora_dropout", "0", "--max_grad_norm", "0.5")


class Scaling:
    """The trainer of the last run, and the steps, counted from 0, in which a gradient overflows."""

    def __init__(self) -> None:
        self.trainer: Any = None
        self.first_scale = FIRST_SCALE
        self.overflowing: set[int] = set()
        self.skipped_weights: list[bool] = []


@pytest.fixture
def scaling(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scaling]:
    """Train in float16 autocast with a GradScaler, as accelerate does on a GPU."""
    state, create, backward = Scaling(), SlmTrainer.create_accelerator_and_postprocess, Accelerator.backward

    def create_with_scaler(self: Any) -> None:
        create(self)
        self.accelerator.native_amp, self.accelerator.state._mixed_precision = True, "fp16"
        self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=state.first_scale, growth_interval=3)
        state.trainer = self

    def overflowing_backward(self: Any, loss: Any, **named: Any) -> None:
        backward(self, loss, **named)
        if state.trainer.state.global_step in state.overflowing:
            next(p for p in state.trainer.model.parameters() if p.grad is not None).grad.fill_(torch.inf)

    monkeypatch.setattr(SlmTrainer, "create_accelerator_and_postprocess", create_with_scaler)
    monkeypatch.setattr(Accelerator, "backward", overflowing_backward)
    yield state
    AcceleratorState._reset_state(reset_partial_state=True)


def log(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next(folder.glob("*.safetensors")))


@FLOWS
def test_float16_trains_as_float32_does_and_a_step_that_overflows_is_skipped(
    tiny: Tiny, tmp_path: Path, scaling: Scaling, flags: Callable[..., list[str]]
) -> None:
    scaling.overflowing = {1}
    assert main(flags(tiny, tmp_path / "half", *RATE)) == 0
    lines, record = log(tmp_path / "half"), read_record(tmp_path / "half")
    assert record["status"] == "finished"
    assert record["speed"]["skipped_steps"] == 1
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[1]["grad_norm"] in ("Infinity", "NaN")
    scaler = scaling.trainer.accelerator.scaler
    assert scaler.get_scale() == FIRST_SCALE / 2  # halved once, and not grown within two further steps
    assert all(isinstance(line["loss"], float) for line in lines)
    assert all(line["grad_norm"] < 100 for number, line in enumerate(lines) if number != 1)  # not scaled


def test_a_skipped_step_changes_no_weight_and_the_rates_are_those_of_the_plan(
    tiny: Tiny, tmp_path: Path, scaling: Scaling
) -> None:
    scaling.overflowing = {0, 1, 2, 3}
    assert main(dynamic(tiny, tmp_path / "none", *RATE)) == 0
    before, after = (read_record(tmp_path / "none")["evaluation"][when]["loss"] for when in ("before", "after"))
    assert before == after
    assert scaling.trainer.accelerator.scaler.get_scale() == FIRST_SCALE / 16
    rates = [line["learning_rate"] for line in log(tmp_path / "none")]
    assert rates == pytest.approx([1e-3 * (4 - step) / 4 for step in range(4)])


@FLOWS
def test_a_float16_run_resumes_exactly(
    tiny: Tiny, tmp_path: Path, scaling: Scaling, flags: Callable[..., list[str]]
) -> None:
    saving = () if flags is dynamic else ("--save_strategy", "steps", "--save_steps", "3")
    whole, parts = (
        flags(tiny, tmp_path / name, *RATE, *saving, "--lr_scheduler_type", "constant") for name in ("whole", "parts")
    )
    scaling.overflowing = {1}
    assert main([*whole, "--max_steps", "6"]) == 0
    scale = scaling.trainer.accelerator.scaler.state_dict()
    assert main([*parts, "--max_steps", "3"]) == 0
    assert scaling.trainer.accelerator.scaler.get_scale() == FIRST_SCALE / 2
    again = [*parts, "--max_steps", "6", "--accept_changes", "max_steps", "--resume_from_checkpoint"]
    assert main(again) == 0
    assert scaling.trainer.accelerator.scaler.state_dict() == scale
    expected, actual = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


@FLOWS
def test_a_gradient_that_no_loss_scale_makes_finite_stops_the_run(
    tiny: Tiny, tmp_path: Path, scaling: Scaling, flags: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    scaling.first_scale, scaling.overflowing = 2.0**-10, set(range(8))
    assert main(flags(tiny, tmp_path / "run", *RATE, "--max_steps", "8")) == 1
    assert read_record(tmp_path / "run")["status"] == "failed"
    error = capsys.readouterr().err
    assert "the gradient is not finite, with the loss scaled by 6e-05 for float16 at step 4" in error


@FLOWS
def test_evaluations_compute_in_float16_too(
    tiny: Tiny, tmp_path: Path, scaling: Scaling, flags: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    used: set[tuple[bool, torch.dtype]] = set()
    forward = torch.nn.LayerNorm.forward

    def recorded(self: Any, x: torch.Tensor) -> torch.Tensor:
        enabled = torch.is_autocast_enabled("cpu")
        used.add((self.training, torch.get_autocast_dtype("cpu") if enabled else torch.float32))
        return forward(self, x)

    argv = flags(tiny, tmp_path / "run", "--max_steps", "1")
    evaluate, train = SlmTrainer.evaluate, SlmTrainer.train

    def recording(usual: Callable[..., Any]) -> Callable[..., Any]:
        def run(self: Any, *arguments: Any, **named: Any) -> Any:
            with monkeypatch.context() as patch:
                patch.setattr(torch.nn.LayerNorm, "forward", recorded)
                return usual(self, *arguments, **named)

        return run

    monkeypatch.setattr(SlmTrainer, "evaluate", recording(evaluate))
    monkeypatch.setattr(SlmTrainer, "train", recording(train))
    assert main(argv) == 0
    assert used == {(True, torch.float16), (False, torch.float16)}


GPUS = {
    "T4": ((7, 5), False, (False, True)),
    "V100": ((7, 0), False, (False, True)),
    "GTX 1080": ((6, 1), False, (False, False)),
    "A100": ((8, 0), True, (True, False)),
}


@pytest.mark.parametrize("name", GPUS)
def test_a_gpu_computes_in_what_it_has_instructions_for(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    capability, bf16, expected = GPUS[name]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16 or including_emulation)
    chosen = device_defaults()
    assert (chosen.bf16, chosen.fp16) == expected
    assert not chosen.use_cpu
    assert device_defaults(cpu_wanted=True).use_cpu


@pytest.mark.parametrize(
    ("words", "expected", "note"),
    [
        ((), torch.float16, ""),
        (("--bf16",), torch.bfloat16, "--bf16 is emulated on this T4, slowly: leave it out for float16"),
        (("--fp16", "false"), torch.float32, ""),
    ],
)
@pytest.mark.parametrize("flow", [(), ("dynamic",)], ids=["trainer", "dynamic"])
def test_on_a_gpu_without_bfloat16_both_flows_and_four_bit_layers_compute_in_float16(
    monkeypatch: pytest.MonkeyPatch, flow: tuple[str, ...], words: tuple[str, ...], expected: torch.dtype, note: str
) -> None:
    without_gpu = parsing.device_defaults
    assert without_gpu is defaults.device_defaults
    monkeypatch.setattr(parsing, "device_defaults", lambda cpu_wanted: DeviceDefaults(False, False, "T4", True))
    # transformers refuses half precision where there is no GPU.
    monkeypatch.setattr(SlmTrainingArguments, "_validate_args", lambda self: None, raising=False)
    arguments = parse_arguments([*flow, "--dry_run", *words])
    assert autocast_dtype(arguments.training) is expected
    assert [line for line in arguments.notes if "emulated" in line] == ([note] if note else [])
