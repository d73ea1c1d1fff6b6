"""``--fsdp``: sharded over processes, a run computes, saves and resumes what one process does."""

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
from transformers import AutoModelForCausalLM

import slm_testing.forked as forked
from slm_data import harbour_stories
from slm_testing.train.budget_runs import dynamic
from slm_testing.train.tiny_runs import Tiny, read_record
from slm_train.cli import main
from slm_train.command_line.checks.optional_packages import check_packages
from slm_train.errors import TrainError

FLOWS = {"dynamic": dynamic, "trainer": Tiny.flags}


@pytest.fixture(scope="module")
def undropped(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The tiny model without dropout, and five held-out stories: 41 rows, of which no process has half."""
    root = tmp_path_factory.mktemp("undropped")
    shutil.copytree(tiny.model, root / "model")
    config = json.loads((root / "model" / "config.json").read_text())
    config |= {name: 0.0 for name in config if name.endswith("_pdrop")}
    (root / "model" / "config.json").write_text(json.dumps(config))
    (root / "held_out.txt").write_text("\n\n\n".join(harbour_stories(5, seed=2)))
    return Tiny(root / "model", tiny.texts, root / "held_out.txt", tiny.cache)


def sharded(argv: list[str], folder: Path, ranks: int = 2) -> list[str]:
    """Run ``argv`` with ``--fsdp`` in ``ranks`` processes; return the output of each."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    common = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    common |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    files = [folder / f"rank {rank}.txt" for rank in range(ranks)]
    processes = []
    for rank, file in enumerate(files):
        file.write_text("")
        of_rank = common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        words = [*argv, "--fsdp"]
        processes.append(forked.start("slm_testing.train.sharded_run", words, output=file, errors=file, **of_rank))
    for process, file in zip(processes, files, strict=True):
        process.join(120)
        assert process.exitcode == 0, file.read_text()
    return [file.read_text() for file in files]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next(folder.glob("*.safetensors")))


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).detach().abs().max()) for name in first)


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# Clipped gradients. Adam enlarges the rounding of gradients that are near its epsilon.
SETTINGS = (
    *("--lr_scheduler_type", "constant", "--learning_rate", "1e-4", "--max_grad_norm", "0.5"),
    *("--adam_epsilon", "1e-5", "--lora_dropout", "0"),
)
# The others take half a minute.
CASES = [("dynamic", "baseline"), ("dynamic", "butterfly"), ("trainer", "lora")]
CASES += [
    pytest.param(flow, mode, marks=pytest.mark.slow)
    for flow in FLOWS
    for mode in ("baseline", "lora", "butterfly", "butterfly_block", "oft")
    if (flow, mode) not in CASES
]


@pytest.mark.parametrize(("flow", "mode"), CASES)
def test_sharded_over_two_processes_a_run_gives_the_weights_of_one_process(
    undropped: Tiny, tmp_path: Path, flow: str, mode: str
) -> None:
    flags: Callable[..., list[str]] = FLOWS[flow]
    intervals = ("--eval_interval", "2") if flow == "dynamic" else ("--eval_strategy", "steps", "--eval_steps", "2")
    more = ("--mode", mode, *SETTINGS, *intervals)
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(flags(undropped, one, *more)) == 0
    of_two = () if flow == "dynamic" else ("--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "2")
    of_two = (*of_two, "--gradient_checkpointing") if mode in ("lora", "butterfly") else of_two
    outputs = sharded(flags(undropped, two, *more, *of_two), tmp_path)
    assert largest_difference(weights(one), weights(two)) <= 1e-6
    for line, expected in zip(log(two), log(one), strict=True):
        for name in {"loss", "eval_loss", "grad_norm", "tokens"} & expected.keys():
            assert line[name] == pytest.approx(expected[name], rel=1e-5)
    reports = [[json.loads(line) for line in text.splitlines() if line.startswith("{")] for text in outputs]
    for report in reports:
        assert len(report) == 4
        for part in report[-1].values():
            assert part["sharded"] == part["count"] > 0
    for part, sizes in reports[0][-1].items():
        assert sizes["local"] + reports[1][-1][part]["local"] == sizes["values"]
        if mode in ("baseline", "lora") or part == "parameters":  # few angles are not worth dividing
            assert sizes["local"] == pytest.approx(sizes["values"] / 2, rel=0.1)


@pytest.mark.parametrize("flow", FLOWS)
def test_a_sharded_run_resumes_exactly_and_its_model_loads(undropped: Tiny, tmp_path: Path, flow: str) -> None:
    saving = () if flow == "dynamic" else ("--save_strategy", "steps", "--save_steps", "2", "--keep_best")
    saving = (*saving, "--eval_strategy", "steps", "--eval_steps", "1") if saving else ()
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    first, second = (
        FLOWS[flow](undropped, folder, "--mode", "baseline", *SETTINGS, *saving, "--prompt", "One day")
        for folder in (whole, parts)
    )
    sharded(first, tmp_path)
    sharded([*second, "--max_steps", "2"], tmp_path)
    sharded([*second, "--resume_from_checkpoint", "--accept_changes", "max_steps"], tmp_path)
    assert largest_difference(weights(whole), weights(parts)) == 0
    losses = [[line["loss"] for line in log(folder) if "loss" in line] for folder in (whole, parts)]
    assert losses[0] == losses[1]
    assert read_record(parts)["samples"]["after"][0]["text"] != "One day"
    model = AutoModelForCausalLM.from_pretrained(parts)
    assert model.lm_head.weight is model.transformer.wte.weight
    trained = {name: values for name, values in model.named_parameters() if name in weights(parts)}
    assert largest_difference(trained, weights(parts)) == 0


def test_a_sharded_run_continues_with_another_number_of_processes_and_with_one(undropped: Tiny, tmp_path: Path) -> None:
    more = ("--mode", "baseline", *SETTINGS, "--keep_best", "--eval_interval", "2")
    one, several = tmp_path / "one", tmp_path / "several"
    assert main(dynamic(undropped, one, *more, "--max_steps", "6")) == 0
    argv = dynamic(undropped, several, *more)
    sharded([*argv, "--max_steps", "2"], tmp_path)
    again = [*argv, "--resume_from_checkpoint", "--accept_changes", "max_steps"]
    sharded([*again, "--max_steps", "4"], tmp_path, ranks=3)
    assert main([*again, "--max_steps", "6"]) == 0
    assert largest_difference(weights(one), weights(several)) <= 1e-6


def test_sharding_needs_a_launcher_which_may_start_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    check_packages({"fsdp": True})
    monkeypatch.delenv("WORLD_SIZE")
    with pytest.raises(TrainError, match="start them with torchrun"):
        check_packages({"fsdp": True})
