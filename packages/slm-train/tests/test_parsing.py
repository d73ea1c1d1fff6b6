"""Flags as they arrive in a run: what is given, and what is filled in for the device."""

from __future__ import annotations

from pathlib import Path

import pytest

from slm_testing.train.tiny_runs import Refused, Tiny
from slm_train import parsing
from slm_train.arguments import MODES
from slm_train.device import DeviceDefaults
from slm_train.parsing import parse


@pytest.mark.parametrize(
    ("words", "asks_for_cpu"),
    [
        ((), False),
        (("--use_cpu",), True),
        (("--use_cpu", "--bf16", "false"), True),
        (("--use_cpu=true",), True),
        (("--no_cuda",), True),
        (("--use_cpu", "false"), False),
        (("--no_cuda", "False"), False),
        (("--use_cpu", "--use_cpu", "no"), False),
    ],
)
def test_the_cpu_is_wanted_where_the_flag_says_yes(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], asks_for_cpu: bool
) -> None:
    asked: list[bool] = []

    def defaults(cpu_wanted: bool) -> DeviceDefaults:
        asked.append(cpu_wanted)
        return DeviceDefaults(True, False, "CPU")

    monkeypatch.setattr(parsing, "device_defaults", defaults)
    assert parse(words).training.use_cpu  # there is nothing else
    assert asked == [asks_for_cpu]


@pytest.mark.parametrize("fp16", [False, True])
def test_bf16_is_on_where_the_device_has_it_unless_fp16_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, fp16: bool
) -> None:
    monkeypatch.setattr(parsing, "device_defaults", lambda cpu_wanted: DeviceDefaults(True, True, "CPU"))
    assert parse(["--fp16"] if fp16 else []).training.bf16 is not fp16
    assert parse(["--bf16", "false"]).training.bf16 is False


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_has_a_learning_rate_of_its_own_unless_one_is_given(mode: str) -> None:
    on_sample = parse(["--mode", mode]).training.learning_rate
    named = parse(["--mode", mode, "--dataset", "sample"]).training.learning_rate
    assert 0 < named < on_sample  # a text that is named means a longer run
    assert parse(["--mode", mode, "--learning_rate", "7e-4"]).training.learning_rate == 7e-4


def test_logs_can_go_to_several_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing, "get_available_reporting_integrations", lambda: ["tensorboard", "wandb"])
    assert parse(["--report_to", "tensorboard", "wandb"]).training.report_to == ["tensorboard", "wandb"]
    assert parse(["--report_to", "none"]).training.report_to == []
    assert parse([]).training.report_to == []


@pytest.mark.parametrize(("name", "said"), [("tensorbord", "tensorboard"), ("comet_ml", "not installed")])
def test_a_logger_that_is_not_there_is_one_sentence(
    tiny: Tiny, tmp_path: Path, refused: Refused, name: str, said: str
) -> None:
    sentence = refused(tiny.flags(tmp_path / "run", "--report_to", name))
    assert name in sentence
    assert said in sentence
    assert not (tmp_path / "run").exists()
