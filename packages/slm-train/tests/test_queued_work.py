"""Speeds on a device that queues its work: the time that it takes to finish counts, not that of queueing."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from slm_testing.train.budget_runs import dynamic
from slm_testing.train.tiny_runs import Tiny, read_record
from slm_train.cli import main
from slm_train.hardware.synchronization import synchronize

WAIT = 0.2  # seconds


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """Let the CPU seem to finish its work only when it is waited for; returns the devices that were."""
    devices: list[torch.device] = []

    def wait(device: torch.device) -> None:
        devices.append(device)
        time.sleep(WAIT)

    for module in ("loop.budget_trainer", "loop.time_budget"):
        monkeypatch.setattr(f"slm_train.{module}.synchronize", wait)
    return devices


def test_a_gpu_is_waited_for_and_a_cpu_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", devices.append)
    synchronize(torch.device("cpu"))
    assert devices == []
    synchronize(torch.device("cuda", 1))
    assert devices == [torch.device("cuda", 1)]


def test_in_the_budget_loop_steps_before_log_lines_and_checkpoints_are_waited_for(
    tiny: Tiny, tmp_path: Path, waits: list[torch.device]
) -> None:
    intervals = ("--log_interval", "3", "--checkpoint_interval", "4", "--max_steps", "7")
    assert main(dynamic(tiny, tmp_path, *intervals)) == 0
    assert len(waits) == 5  # steps 3, 4, 6, and 7, the last, also for the time of the whole run
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "tokens_per_second" in line]
    tokens = [0, *(line["tokens"] for line in logged)]
    for index, (line, count) in enumerate(zip(logged, (1, 2, 1), strict=True)):
        assert line["tokens_per_second"] < (tokens[index + 1] - tokens[index]) / (count * WAIT)
    assert read_record(tmp_path)["speed"]["train_seconds"] > 4 * WAIT


def test_in_the_trainer_steps_before_log_lines_and_the_end_are_waited_for(
    tiny: Tiny, tmp_path: Path, waits: list[torch.device]
) -> None:
    flags = ("--logging_steps", "2", "--max_steps", "5", "--save_strategy", "no", "--eval_strategy", "no")
    assert main(tiny.flags(tmp_path, *flags)) == 0
    assert len(waits) == 3  # steps 2, 4 and 5
    assert read_record(tmp_path)["speed"]["train_seconds"] > 3 * WAIT
