"""A run whose loss becomes NaN or infinite stops, keeps its last good checkpoint and publishes nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from slm_testing.train.budget_runs import dynamic
from slm_testing.train.tiny_runs import Tiny, read_record
from slm_train import SlmTrainer, evaluate
from slm_train.cli import main
from slm_train.errors import DivergenceError
from slm_train.loop.finite_check import FiniteCheck
from slm_train.run_folder.strict_json import write_json

FLOWS = pytest.mark.parametrize("flags", [Tiny.flags, dynamic], ids=["trainer", "dynamic"])
Failed = Callable[[list[str]], str]


@pytest.fixture
def failed(capsys: pytest.CaptureFixture[str]) -> Failed:
    """Run a command line that must fail with exit code 1 and one line; return the line."""

    def run(argv: list[str]) -> str:
        code = main(argv)
        output = capsys.readouterr()
        assert code == 1, output
        # transformers warns once in a process, which may be in this test.
        [line] = [line for line in output.err.splitlines() if line.startswith("slm-train: ")]
        assert "Traceback" not in output.err
        return line

    return run


def saved_weights(folder: Path) -> list[torch.Tensor]:
    """Return the weights of every checkpoint, and those of the best evaluation."""
    tensors = [value for file in folder.rglob("*.safetensors") for value in load_file(file).values()]
    for file in folder.glob("*.pt"):
        tensors += list(torch.load(file, weights_only=True)["weights"].values())
    return tensors


def check_folder_of_failed_run(folder: Path, step: int) -> None:
    record = read_record(folder)
    assert record["status"] == "failed"
    assert record["failure"]["step"] == step
    assert "after" not in record["evaluation"]
    assert not (folder / "README.md").exists()
    assert list(folder.glob("*.safetensors")) == []
    assert all(tensor.isfinite().all() for tensor in saved_weights(folder))
    for text in ((folder / "run.json").read_text(), *(folder / "metrics.jsonl").read_text().splitlines()):
        json.loads(text, parse_constant=pytest.fail)  # NaN and Infinity are not JSON


def spoil_loss(monkeypatch: pytest.MonkeyPatch, value: float, step: int) -> None:
    """Make the losses of one optimizer step ``value``; its gradient becomes NaN or infinite."""
    usual = SlmTrainer.compute_loss

    def compute_loss(self: SlmTrainer, *arguments: Any, **named: Any) -> Any:
        is_spoiled = self.is_in_train and self.state.global_step + 1 == step
        return usual(self, *arguments, **named) * (value if is_spoiled else 1.0)

    monkeypatch.setattr(SlmTrainer, "compute_loss", compute_loss)


@FLOWS
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_that_is_not_finite_stops_the_run_after_the_checkpoint_before_it(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failed: Failed, flags: Any, value: float
) -> None:
    spoil_loss(monkeypatch, value, 3)
    more = () if flags is dynamic else ("--save_steps", "1")
    line = failed(flags(tiny, tmp_path / "run", *more, "--max_steps", "6", "--keep_best"))
    name = "dynamic_checkpoint.pt" if flags is dynamic else "checkpoint-2"
    assert f"the loss is {value} at step 3, with the learning rate" in line
    assert (
        f"the last checkpoint before it is {tmp_path / 'run' / name}. Start again with a lower --learning_rate" in line
    )
    assert (tmp_path / "run" / name).exists()
    check_folder_of_failed_run(tmp_path / "run", 3)
    if flags is dynamic:
        assert torch.load(tmp_path / "run" / name, weights_only=True)["step"] == 2


@FLOWS
def test_a_rate_that_is_far_too_high_ends_in_one_line_and_saves_no_weights_that_are_not_finite(
    tiny: Tiny, tmp_path: Path, failed: Failed, flags: Any
) -> None:
    more = ("--learning_rate", "1e38", "--max_grad_norm", "0", "--sample_every", "1", "--prompt", "Once upon")
    more += () if flags is dynamic else ("--save_steps", "1")
    line = failed(flags(tiny, tmp_path / "run", *more, "--max_steps", "6"))
    step = read_record(tmp_path / "run")["failure"]["step"]
    assert f"at step {step}" in line
    check_folder_of_failed_run(tmp_path / "run", step)


@FLOWS
def test_a_base_model_with_nan_weights_is_not_trained(tiny: Tiny, tmp_path: Path, failed: Failed, flags: Any) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(tiny.model)
    model.transformer.ln_f.bias.data[3] = math.nan
    model.save_pretrained(tmp_path / "model")
    for file in tiny.model.glob("*token*"):
        (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    line = failed(flags(tiny, tmp_path / "run", "--model_path", str(tmp_path / "model"), "--packing", "none"))
    assert "the evaluation loss is nan at step 0" in line
    assert "there is no checkpoint before it. The base model's weights may be damaged" in line
    check_folder_of_failed_run(tmp_path / "run", 0)


def test_a_failed_run_continues_from_its_last_checkpoint(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failed: Failed
) -> None:
    command = tiny.flags(tmp_path / "run", "--save_steps", "1")
    with monkeypatch.context() as context:
        spoil_loss(context, math.nan, 3)
        failed(command)
    assert main([*command, "--resume_from_checkpoint"]) == 0
    record = read_record(tmp_path / "run")
    assert record["status"] == "finished"
    assert "failure" not in record


def test_a_gpu_is_waited_for_only_where_figures_are_read(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    usual = FiniteCheck.check

    def check(self: FiniteCheck) -> None:
        steps.append(max(self._rates, default=0))
        usual(self)

    monkeypatch.setattr(FiniteCheck, "check", check)
    monkeypatch.setattr(FiniteCheck, "is_free", property(lambda _: False, lambda *_: None), raising=False)
    more = ("--logging_steps", "2", "--save_strategy", "no", "--max_steps", "5")
    assert main(tiny.flags(tmp_path / "run", *more)) == 0
    assert sorted(set(steps)) == [2, 4, 5]


def test_infinite_gradients_of_a_gradient_scaler_do_not_stop_a_run_but_its_loss_does() -> None:
    accelerator: Any = SimpleNamespace(device=torch.device("cpu"), num_processes=1, scaler=torch.amp.GradScaler("cpu"))
    watched = FiniteCheck(accelerator)
    watched.add_loss(torch.tensor(2.0))
    watched.end_step(1, torch.tensor(math.inf), 1e-3)
    watched.check()
    assert watched.skipped == 1
    watched.add_loss(torch.tensor(math.inf))
    watched.end_step(2, torch.tensor(1.0), 2e-3)
    watched.add_loss(torch.tensor(math.nan))
    watched.end_step(3, torch.tensor(1.0), 3e-3)
    with pytest.raises(DivergenceError, match=r"the loss is inf at step 2, with the learning rate 0\.002"):
        watched.check()


def test_an_infinite_gradient_without_a_scaler_is_named() -> None:
    accelerator: Any = SimpleNamespace(device=torch.device("cpu"), num_processes=1, scaler=None)
    watched = FiniteCheck(accelerator)
    watched.end_step(7, math.inf, 1e-3)
    with pytest.raises(DivergenceError, match="the gradient norm is inf at step 7"):
        watched.check()


class NotANumber(torch.nn.Module):
    """A loss that is NaN for every batch."""

    def __call__(self, *_: object) -> tuple[torch.Tensor, int]:
        return torch.tensor(math.nan, dtype=torch.float64), 3


def test_an_evaluation_reports_nan_as_nan() -> None:
    loss: Any = NotANumber()
    batch = {"input_ids": torch.zeros(1, 4), "labels": torch.zeros(1, 4)}
    result = evaluate(torch.nn.Linear(1, 1), [batch], Accelerator(), tokens_per_byte=0.3, block_size=4, loss=loss)
    assert [math.isnan(value) for value in (result.loss, result.perplexity, result.bits_per_byte)] == [True] * 3


def test_numbers_that_json_does_not_have_are_words_that_float_reads() -> None:
    values = {"a": [math.nan, math.inf, {"b": -math.inf}], "c": (1.5, None, True, "NaN")}
    read = json.loads(write_json(values), parse_constant=pytest.fail)
    assert read == {"a": ["NaN", "Infinity", {"b": "-Infinity"}], "c": [1.5, None, True, "NaN"]}
    assert [float(read["a"][1]), float(read["a"][2]["b"])] == [math.inf, -math.inf]
    assert math.isnan(float(read["a"][0]))
