"""Tests of the team of threads that runs compiled programs."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from slm_kv.compiled import team
from slm_kv.compiled.operations import add
from slm_kv.compiled.program import WORDS, Program, StepContext, Workspace, barrier, execute

pytestmark = pytest.mark.usefixtures("torch_threads")


class Doubling:
    """A program that adds a row to itself ``times`` times, with a barrier after each."""

    def __init__(self, times: int = 10) -> None:
        self.workspace, self.context = Workspace(1, 3), StepContext()
        self.context[StepContext.ROWS] = 1
        self.x = self.workspace.rows(256)
        self.program = Program([add(self.x, self.x), barrier()] * times, [self.workspace], 3)

    def is_right(self, times: int = 10) -> bool:
        """Run it from ones."""
        self.workspace.array(self.x)[:] = 1.0
        self.program.run(self.context)
        return bool((self.workspace.array(self.x) == 2.0**times).all())


def test_the_number_of_threads_may_change_between_steps() -> None:
    doubling = Doubling()
    for threads in (1, 3, 2, 3, 8):
        torch.set_num_threads(threads)
        assert doubling.is_right()
        assert threads == 1 or (team._process.team is not None and team._process.team.threads == min(threads, 3))


def test_workers_sleep_between_steps() -> None:
    torch.set_num_threads(3)
    assert Doubling().is_right()
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.15  # spinning workers would take 0.3 s or more


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("held", [False, True])
def test_a_forked_child_builds_its_own_team(held: bool) -> None:
    torch.set_num_threads(2)
    doubling = Doubling()
    assert doubling.is_right()
    if held:
        team._process.lock.acquire()
    child = os.fork()
    if child == 0:
        right = doubling.is_right() and team._process.team is not None
        os._exit(0 if right else 1)
    if held:
        team._process.lock.release()
    deadline = time.monotonic() + 20
    while (status := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    if status[0] == 0:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert status == (child, 0)
    assert doubling.is_right()


def test_engines_in_two_threads_do_not_wait_for_each_other() -> None:
    torch.set_num_threads(2)
    results: list[bool] = []

    def work() -> None:
        doubling = Doubling()
        results.extend(doubling.is_right() for _ in range(50))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert results == [True] * 150


def test_an_interrupted_step_leaves_no_worker_waiting() -> None:
    context, matrix = np.zeros(StepContext.SIZE, np.int64), np.zeros((1, WORDS), np.int64)
    context[StepContext.ROWS], matrix[0, 0] = 1, barrier()[0]

    def interrupted(context: int, matrix: int, instructions: int, thread: int, threads: int) -> None:
        if thread == 0:
            raise KeyboardInterrupt
        execute(context, matrix, instructions, thread, threads)

    broken = team.Team(interrupted, 3)
    with pytest.raises(KeyboardInterrupt):
        broken.run(context, matrix)
    assert broken.stopped
    assert not any(worker.is_alive() for worker in broken._workers)


def test_a_step_of_too_many_rows_is_refused() -> None:
    doubling = Doubling()
    doubling.context[StepContext.ROWS] = 33
    with pytest.raises(ValueError, match="33"):
        doubling.program.run(doubling.context)
