"""``--report_to``: missing packages, accounts, and where events are written."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers.integrations.integration_utils import TensorBoardCallback, TrackioCallback, WandbCallback

from slm_testing.train.budget_runs import dynamic
from slm_testing.train.tiny_runs import Refused, Tiny
from slm_train.cli import main
from slm_train.command_line import loggers
from slm_train.command_line.loggers import check_loggers
from slm_train.errors import TrainError
from slm_train.reports.loggers.settings import explain_logger_errors, prepare_loggers


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_missing_package_comes_with_the_commands_that_install_it(
    tiny: Tiny, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(loggers, "get_available_reporting_integrations", list)
    sentence = refused(tiny.flags(tmp_path / "run", "--report_to", name))
    assert f'pip install "slm-train[{name}]"' in sentence
    assert f"--extra {name}" in sentence


@pytest.mark.parametrize(
    ("mode", "key", "is_refused"), [("online", "", True), ("online", "k", False), ("offline", "", False)]
)
def test_wandb_needs_an_account_unless_it_is_offline(
    monkeypatch: pytest.MonkeyPatch, mode: str, key: str, is_refused: bool
) -> None:
    library = SimpleNamespace(login=lambda **_: bool(key))
    monkeypatch.setattr(loggers, "import_module", {"wandb": library}.__getitem__)
    monkeypatch.setattr(loggers, "get_available_reporting_integrations", lambda: ["wandb"])
    monkeypatch.setitem(os.environ, "WANDB_MODE", mode)
    if is_refused:
        with pytest.raises(TrainError, match="not logged in; run wandb login, or set WANDB_MODE=offline"):
            check_loggers(["wandb"])
    else:
        check_loggers(["wandb"])


def test_an_error_of_wandb_is_one_sentence_and_others_pass() -> None:
    from_wandb = type("CommError", (Exception,), {"__module__": "wandb.errors.errors"})
    with (
        pytest.raises(TrainError, match=r"^--report_to wandb: timed out; set WANDB_MODE=offline"),
        explain_logger_errors(),
    ):
        raise from_wandb("timed out\nConsider ...")
    with pytest.raises(KeyError), explain_logger_errors():
        raise KeyError("x")


class Writers:
    """Makes stand-ins for SummaryWriter and records how."""

    def __init__(self) -> None:
        self.made: list[dict[str, Any]] = []

    def __call__(self, **settings: Any) -> Writers:
        self.made.append(settings)
        return self


@pytest.mark.parametrize(("step", "purged"), [(0, []), (6, [7])])
@pytest.mark.parametrize("chosen", [None, "elsewhere"])
def test_tensorboard_writes_into_the_run_folder_and_replaces_the_steps_that_are_repeated(
    tmp_path: Path, step: int, purged: list[int], chosen: str | None
) -> None:
    callback: Any = object.__new__(TensorBoardCallback)
    callback.logging_dir, callback._SummaryWriter = chosen, Writers()
    prepare_loggers(trainer_with(callback), tmp_path, step)
    assert callback.logging_dir == (chosen or str(tmp_path / "tensorboard"))
    assert [settings["purge_step"] for settings in callback._SummaryWriter.made] == purged
    assert all(settings["log_dir"] == callback.logging_dir for settings in callback._SummaryWriter.made)


@pytest.mark.parametrize("kind", [TrackioCallback, WandbCallback])
@pytest.mark.parametrize("chosen", [None, "mine"])
def test_a_run_of_trackio_or_wandb_has_a_name_of_its_own(tmp_path: Path, kind: type, chosen: str | None) -> None:
    trainer = trainer_with(object.__new__(kind), chosen)
    prepare_loggers(trainer, tmp_path / "sample-lora", 0)
    name = trainer.args.run_name
    assert name == chosen if chosen else name.startswith("sample-lora 20")


def trainer_with(callback: Any, run_name: str | None = None) -> Any:
    return SimpleNamespace(
        args=SimpleNamespace(run_name=run_name),
        callback_handler=SimpleNamespace(callbacks=[callback]),
        is_world_process_zero=lambda: True,
    )


@pytest.mark.parametrize("flow", ["trainer", "dynamic"])
def test_events_have_losses_rates_and_texts_after_resuming_too(tiny: Tiny, tmp_path: Path, flow: str) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs the extra tensorboard"
    )
    interval = ("--eval_interval", "2") if flow == "dynamic" else ("--eval_strategy", "steps", "--eval_steps", "2")
    more = ("--report_to", "tensorboard", "--sample_every", "2", "--prompt", "One day", "--save_steps", "1", *interval)
    flags = (dynamic if flow == "dynamic" else Tiny.flags)(tiny, tmp_path, *more)
    assert main([*flags, "--max_steps", "4"]) == 0
    assert main([*flags, "--max_steps", "6", "--resume_from_checkpoint", "--accept_changes", "max_steps"]) == 0
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    steps = {name: [event.step for event in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert steps["train/loss"] == steps["train/learning_rate"] == [1, 2, 3, 4, 5, 6]
    assert steps["eval/loss"] == [0, 2, 4, 6]
    texts = events.Tensors("samples/1/text_summary")
    assert [event.step for event in texts] == [2, 4, 6]
    assert texts[0].tensor_proto.string_val[0].startswith(b"One day")
