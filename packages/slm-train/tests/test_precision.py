"""What a run computes in is what it says: on the terminal, in run.json and in the model card."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from slm_testing.train.budget_runs import dynamic
from slm_testing.train.tiny_runs import Refused, Tiny, read_record
from slm_train import SlmTrainer, parse_arguments
from slm_train.cli import main
from slm_train.hardware.device_defaults import precision_name


@pytest.mark.parametrize("flags", [Tiny.flags, dynamic], ids=["trainer", "dynamic"])
@pytest.mark.parametrize(("flag", "precision"), [("--fp16", "float32"), ("--bf16", "bfloat16 autocast")])
def test_a_run_on_a_cpu_reports_the_precision_that_it_used(
    tiny: Tiny,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    flags: object,
    flag: str,
    precision: str,
) -> None:
    used: set[str] = set()
    usual = SlmTrainer.compute_loss

    def compute_loss(self: SlmTrainer, *arguments: Any, **named: Any) -> Any:
        with self.accelerator.autocast():
            is_on = torch.is_autocast_enabled("cpu")
            used.add(f"{torch.get_autocast_dtype('cpu')} autocast" if is_on else "torch.float32")
        return usual(self, *arguments, **named)

    monkeypatch.setattr(SlmTrainer, "compute_loss", compute_loss)
    assert callable(flags)
    assert main(flags(tiny, tmp_path, flag, "true", "--max_steps", "1")) == 0
    assert used == {f"torch.{precision}"}
    printed = capsys.readouterr().out
    assert f"CPU, 1 thread (--threads), {precision}" in printed
    assert ("--fp16 is not used on a CPU: this run computes in float32" in printed) == (flag == "--fp16")
    record = read_record(tmp_path)
    assert record["precision"] == precision
    assert record["arguments"]["fp16"] is False
    assert f"| precision | {precision} |" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("flag", ["bf16_full_eval", "fp16_full_eval"])
def test_a_precision_of_evaluations_that_is_not_used_is_reported(flag: str) -> None:
    notes = parse_arguments([f"--{flag}"]).notes
    assert f"--{flag} is not used: evaluations compute as training does" in notes


def test_tf32_is_refused_on_a_cpu_and_reported_where_it_is_used(refused: Refused) -> None:
    assert "--tf32" in refused(["--tf32", "true"])
    used: Any = SimpleNamespace(bf16=False, fp16=False, tf32=True)
    assert precision_name(used) == "float32, products of matrices in TF32"


@pytest.mark.parametrize("flow", [(), ("dynamic",)], ids=["trainer", "dynamic"])
def test_adamw_is_fused_in_both_flows(flow: tuple[str, ...]) -> None:
    training = parse_arguments(flow).training
    optimizer, settings = SlmTrainer.get_optimizer_cls_and_kwargs(training)
    assert optimizer is torch.optim.AdamW
    assert settings["fused"] is True
