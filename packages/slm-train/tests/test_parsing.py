"""Flags as a run receives them: what the user set, and defaults for the device."""

from __future__ import annotations

from pathlib import Path

import pytest

from slm_testing.train.tiny_runs import Refused, Tiny
from slm_train.command_line import loggers, parsing
from slm_train.command_line.parsing import parse_arguments
from slm_train.hardware.device_defaults import DeviceDefaults


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
def test_the_cpu_is_used_if_the_flag_is_on(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], asks_for_cpu: bool
) -> None:
    requests: list[bool] = []

    def defaults(cpu_wanted: bool) -> DeviceDefaults:
        requests.append(cpu_wanted)
        return DeviceDefaults(True, False, "CPU")

    monkeypatch.setattr(parsing, "device_defaults", defaults)
    assert parse_arguments(words).training.use_cpu  # the fake machine has nothing else
    assert requests == [asks_for_cpu]


@pytest.mark.parametrize("fp16", [False, True])
def test_bf16_is_on_if_the_device_has_it_and_fp16_is_not_set(monkeypatch: pytest.MonkeyPatch, fp16: bool) -> None:
    monkeypatch.setattr(parsing, "device_defaults", lambda cpu_wanted: DeviceDefaults(True, True, "CPU"))
    assert parse_arguments(["--fp16"] if fp16 else []).training.bf16 is not fp16
    assert parse_arguments(["--bf16", "false"]).training.bf16 is False


def test_logs_can_go_to_several_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "get_available_reporting_integrations", lambda: ["tensorboard", "trackio"])
    assert parse_arguments(["--report_to", "tensorboard", "trackio"]).training.report_to == ["tensorboard", "trackio"]
    assert parse_arguments(["--report_to", "none"]).training.report_to == []
    assert parse_arguments([]).training.report_to == []


@pytest.mark.parametrize(("name", "expected"), [("tensorbord", "tensorboard"), ("comet_ml", "not installed")])
def test_an_unavailable_logger_is_reported_in_one_sentence(
    tiny: Tiny, tmp_path: Path, refused: Refused, name: str, expected: str
) -> None:
    sentence = refused(tiny.flags(tmp_path / "run", "--report_to", name))
    assert name in sentence
    assert expected in sentence
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ([], "training the built-in base model on the built-in corpus (600 stories)"),
        (["--model_path", "distilgpt2"], "training on the built-in corpus (600 stories)"),
    ],
    ids=["no model", "a model"],
)
def test_a_run_without_texts_names_the_built_in_base_only_if_it_is_used(model: list[str], expected: str) -> None:
    assert parse_arguments(model).notes == (f"no --dataset or --train_file: {expected}",)
