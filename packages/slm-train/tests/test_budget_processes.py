"""One process and two give the same weights."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import slm_testing.forked as forked
from slm_testing.train.budget_runs import dynamic
from slm_testing.train.killing import start
from slm_testing.train.tiny_runs import Tiny, read_record
from slm_train.cli import main


@pytest.fixture(scope="module")
def undropped(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model without dropout: processes would drop other activations."""
    folder = tmp_path_factory.mktemp("undropped") / "model"
    shutil.copytree(tiny.model, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {name: 0.0 for name in config if name.endswith("_pdrop")}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def by_torchrun(argv: list[str]) -> int:
    """As torchrun starts two processes, with the variables that it sets."""
    process = forked.start("slm_testing.train.launched", argv)
    process.join(300)
    return int(process.exitcode)


def by_forks(argv: list[str]) -> int:
    """Two processes without torchrun's agent."""
    processes = [start(argv, **environment) for environment in two_ranks()]
    for process in processes:
        process.join(300)
    return max(process.exitcode for process in processes)


def two_ranks() -> list[dict[str, str]]:
    """The environment variables that torchrun sets for each of two processes."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    environment = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    return [environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]


@pytest.mark.parametrize("flow", ["trainer", "dynamic"])
def test_two_processes_sample_once_and_end_with_the_best_weights(tiny: Tiny, tmp_path: Path, flow: str) -> None:
    more: tuple[str, ...] = (
        "--sample_every",
        "2",
        "--prompt",
        "One day",
        "--keep_best",
        "--patience",
        "2",
        "--mode",
        "baseline",
    )
    more = (*more, "--learning_rate", "0.3", "--lr_scheduler_type", "constant", "--max_eval_samples", "3")
    interval = ("--eval_interval", "1") if flow == "dynamic" else ("--eval_strategy", "steps", "--eval_steps", "1")
    flags = dynamic if flow == "dynamic" else Tiny.flags
    assert by_forks(flags(tiny, tmp_path, *more, *interval, "--max_steps", "20")) == 0
    best = read_record(tmp_path)["best"]
    assert best["stopped_early"]
    sampled = [line["step"] for line in log(tmp_path) if "samples" in line]
    assert sampled == list(range(2, best["step"] + 3, 2))
    stored = torch.load(tmp_path / f"best-{best['step']}.pt", weights_only=True)["weights"]
    final = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(final[name], stored[name]) for name in final)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next(folder.glob("*.safetensors")))


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


@pytest.mark.parametrize(("mode", "strategy_flags"), [("lora", ()), ("baseline", ("--fsdp",))], ids=["ddp", "fsdp"])
def test_one_process_and_two_give_the_same_weights_and_the_run_continues(
    tiny: Tiny, undropped: Path, tmp_path: Path, mode: str, strategy_flags: tuple[str, ...]
) -> None:
    more = ("--mode", mode, "--lora_dropout", "0", "--model_path", str(undropped), "--max_train_samples", "20")
    # A low rate: Adam enlarges the rounding of gradients that are summed in another order, in proportion to it.
    more = (*more, "--eval_interval", "4", "--lr_scheduler_type", "constant", "--learning_rate", "1e-4")
    more = (*more, "--checkpoint_interval", "auto")  # decided by the first process
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(dynamic(tiny, one, *more, "--max_steps", "8")) == 0
    launch = by_torchrun if mode == "lora" else by_forks
    assert launch(dynamic(tiny, two, *more, *strategy_flags, "--max_steps", "4")) == 0
    state = torch.load(two / "dynamic_checkpoint.pt", weights_only=True)
    assert len(state["ranks"]) == 2
    assert state["step"] == 4
    longer = dynamic(tiny, two, *more, *strategy_flags, "--max_steps", "8", "--accept_changes", "max_steps")
    assert by_forks([*longer, "--resume_from_checkpoint"]) == 0
    assert largest_difference(weights(one), weights(two)) <= 1e-6
    lines, expected_lines = log(two), log(one)
    assert [line["step"] for line in lines] == [line["step"] for line in expected_lines]
    for line, expected in zip(lines, expected_lines, strict=True):
        for name in {"loss", "eval_loss", "grad_norm", "tokens"} & expected.keys():
            assert line[name] == pytest.approx(expected[name], rel=1e-5)


def test_two_processes_find_the_learning_rate_that_one_finds(tiny: Tiny, undropped: Path, tmp_path: Path) -> None:
    more = ("--lora_dropout", "0", "--model_path", str(undropped), "--max_steps", "2", "--find_learning_rate")
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(dynamic(tiny, one, *more)) == 0
    assert by_forks(dynamic(tiny, two, *more)) == 0
    found, expected = (read_record(folder)["learning_rate_search"] for folder in (two, one))
    assert found["chosen"] == expected["chosen"]
    assert found["loss_before"] == pytest.approx(expected["loss_before"], rel=1e-5)
    for trial, expected_trial in zip(found["trials"], expected["trials"], strict=True):
        assert trial == pytest.approx(expected_trial, rel=1e-3)
    assert largest_difference(weights(one), weights(two)) <= 1e-6


@pytest.mark.parametrize("flags", [dynamic, Tiny.flags], ids=["dynamic", "trainer"])
@pytest.mark.parametrize(("more", "code"), [((), 0), (("--model_path", "./nowhere"), 2)], ids=["done", "refused"])
def test_no_process_group_is_left_to_the_end_of_the_interpreter(
    tiny: Tiny, tmp_path: Path, flags: Callable[..., list[str]], more: tuple[str, ...], code: int
) -> None:
    """A group that is left sometimes aborts a process that has finished."""
    argv = flags(tiny, tmp_path / "run", *more, "--max_steps", "2", "--max_train_samples", "20")
    outputs = [tmp_path / f"rank {rank}" for rank in range(2)]
    ranks = zip(outputs, two_ranks(), strict=True)
    processes = [
        forked.start("slm_testing.train.process_group_check", argv, output=file, **environment)
        for file, environment in ranks
    ]
    for process, file in zip(processes, outputs, strict=True):
        process.join(300)
        assert process.exitcode == code, file.read_text()
        assert file.read_text().endswith("no process group is left\n")


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
