"""Running a function in two processes of one process group (gloo, on CPUs)."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

# Autograd starts its threads at the first backward pass, after which a process with any GPU must not fork. Compiling
# pretends that there is a GPU (torch 2.13), so the first pass is here, where tests are collected: before any compiles.
torch.ones(1, requires_grad=True).backward()

WORLD_SIZE = 2
SECONDS = 60

needs_two_processes = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods() or not torch.distributed.is_gloo_available(),
    reason="needs fork and gloo",
)


def run_in_two_processes(work: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """Return what ``work(rank, *arguments)`` returned in each of two forked processes, by rank.

    Results are written with ``torch.save`` to ``folder``, and read without running code from them.
    """
    if torch.cuda.is_initialized():
        pytest.skip("CUDA cannot be used in a process that was forked after its start")
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_join_group, args=(work, rank, folder, arguments)) for rank in range(WORLD_SIZE)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS)
    unfinished = [process for process in processes if process.exitcode is None]
    for process in unfinished:
        process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD_SIZE)]


def _join_group(work: Callable[..., Any], rank: int, folder: Path, arguments: tuple[Any, ...]) -> None:
    meeting = f"file://{folder / 'meeting'}"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=WORLD_SIZE)
    torch.save(work(rank, *arguments), folder / f"{rank}.pt")
    # The last owner of the group joins its threads. Python's handle releases the GIL meanwhile, a DDP wrapper does
    # not: if a thread needs the GIL then, both wait forever (torch 2.13). ``work`` has dropped its wrapper by now.
    torch.distributed.destroy_process_group()
