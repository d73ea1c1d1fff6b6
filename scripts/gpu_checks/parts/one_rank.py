"""One process of a group: collectives, FSDP2, and both flows of slm-train under ``torchrun``."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from gpu_checks.models import new_model, save_model
from gpu_checks.recorder import Recorder
from slm_testing.train.device_runs import device_flags

SHAPE = "tiny"
TRAINER: dict[str, object] = {"logging_steps": 1, "per_device_train_batch_size": 4}
# The command, its flags, and those that are given under torchrun only.
FLOWS: dict[str, tuple[list[str], dict[str, object], list[str]]] = {
    "trainer": ([], TRAINER, []),
    "dynamic": (["dynamic"], {"log_interval": 1, "target_tokens_per_step": 256}, []),
    "fsdp": ([], TRAINER | {"mode": "baseline"}, ["--fsdp"]),
}
STEPS, DOCUMENTS, BLOCK = 3, 24, 64
TOLERANCE = 1e-5
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node", "1", "-m")


def run(recorder: Recorder) -> None:
    """Start the launched runs, use a group of one process in this one meanwhile, and compare the runs."""
    base = save_model(SHAPE, recorder.folder / "base")
    runs = {name: _start_runs(recorder, base, name) for name in FLOWS}
    with group_of_one(recorder.device, recorder.folder / "store") as backend:
        values = torch.arange(4.0, device=recorder.device)
        dist.all_reduce(values)
        recorder.claim("collectives", values.tolist() == [0, 1, 2, 3], backend)
        difference, sharded, total = sharded_difference(recorder.device)
        holds = difference <= TOLERANCE and sharded == total
        recorder.claim("fsdp2", holds, f"difference {difference:.1g}, {sharded} of {total} parameters are sharded")
    for name, processes in runs.items():
        codes = [process.wait() for process in processes]
        if any(codes):
            recorder.claim(name, False, f"exit codes {codes} with and without torchrun; see the log")
            continue
        launched, plain = (_losses(recorder.folder / f"{name}-{kind}") for kind in ("launched", "plain"))
        recorder.claim(name, _agree(launched, plain), f"losses {launched} with torchrun, {plain} without")


@contextmanager
def group_of_one(device: torch.device, store: Path) -> Iterator[str]:
    """Make this process a group of its own. Yields the backend's name."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)
    dist.init_process_group(backend, init_method=f"file://{store}", rank=0, world_size=1)
    try:
        yield backend
    finally:
        dist.destroy_process_group()


def sharded_difference(device: torch.device) -> tuple[float, int, int]:
    """Return the largest relative difference of gradients under FSDP2, and how many of all parameters are DTensors."""
    plain: Any = new_model(SHAPE, device).train()
    sharded, mesh = copy.deepcopy(plain), init_device_mesh(device.type, (1,))
    for layer in sharded.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    ids = torch.arange(2 * BLOCK, device=device).view(2, BLOCK)
    for model in (plain, sharded):
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    expected = {name: parameter.grad for name, parameter in plain.named_parameters()}
    parameters = dict(sharded.named_parameters())
    differences = [
        float((parameter.grad.full_tensor() - expected[name]).abs().max() / expected[name].abs().max())
        for name, parameter in parameters.items()
    ]
    return max(differences), sum(isinstance(each, DTensor) for each in parameters.values()), len(parameters)


def _start_runs(recorder: Recorder, base: Path, name: str) -> list[subprocess.Popen[bytes]]:
    """Start the same run under torchrun and without."""
    words, more, launched = FLOWS[name]
    kinds = {"launched": ([*TORCHRUN, "slm_train.cli"], launched), "plain": (["slm_train.cli"], [])}
    processes = []
    for kind, (launcher, added) in kinds.items():
        folder = recorder.folder / f"{name}-{kind}"
        settings = {"max_steps": STEPS, "max_train_samples": DOCUMENTS, "block_size": BLOCK, **more}
        flags = device_flags(base, folder, recorder.device, **settings, token_cache=f"{folder}-tokens")
        processes.append(subprocess.Popen([sys.executable, "-m", *launcher, *words, *flags, *added]))
    return processes


def _losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [round(float(line["loss"]), 6) for line in lines if "loss" in line]


def _agree(first: list[float], second: list[float]) -> bool:
    pairs = zip(first, second, strict=False)
    return len(first) == len(second) == STEPS and all(abs(a - b) <= TOLERANCE * max(1.0, abs(b)) for a, b in pairs)
