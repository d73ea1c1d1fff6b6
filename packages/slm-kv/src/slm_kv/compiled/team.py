"""The process's team of threads for compiled programs.

Workers sleep between the steps, and the interpreter's lock is not held during one. A team is built again when torch's
number of threads changes and in a forked child. When another engine uses the team, the caller computes alone; results
do not depend on the number of threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import numpy as np
import torch

BARRIER = 1  # the word of a context that holds the address of the team's counter
GIVEN_UP = -(2**62)  # the counter after an interrupted step: no thread waits any more
Execute = Callable[[int, int, int, int, int], None]  # context, matrix, instructions, thread, threads


class Team:
    """The caller and ``threads`` - 1 workers."""

    def __init__(self, execute: Execute, threads: int) -> None:
        self.threads, self._execute, self._stopped = threads, execute, False
        self._counter = np.zeros(32, np.int64)  # the barrier's; alone in its cache line
        self._task = (0, 0, 0)
        self._wake = [threading.Lock() for _ in range(threads - 1)]
        for lock in self._wake:
            lock.acquire()
        self._workers = [
            threading.Thread(target=self._work, args=(index,), name=f"slm-kv-step-{index}", daemon=True)
            for index in range(1, threads)
        ]
        for worker in self._workers:
            worker.start()

    def run(self, context: np.ndarray, matrix: np.ndarray) -> None:
        """Run a program on all threads. An interrupt between two bytecodes must not leave workers waiting."""
        context[BARRIER] = self._counter[16:].ctypes.data
        self._task = (context.ctypes.data, matrix.ctypes.data, len(matrix))
        try:
            for lock in self._wake:
                lock.release()
            self._execute(*self._task, 0, self.threads)
        except BaseException:
            self._counter[16] = GIVEN_UP
            self.stop()
            raise

    def stop(self) -> None:
        """End the workers."""
        self._stopped = True
        for lock in self._wake:
            if lock.locked():
                lock.release()
        for worker in self._workers:
            worker.join()

    @property
    def stopped(self) -> bool:
        """Whether ``stop`` was called."""
        return self._stopped

    def _work(self, index: int) -> None:
        while True:
            self._wake[index - 1].acquire()
            if self._stopped:
                return
            self._execute(*self._task, index, self.threads)


class _Process:
    """What belongs to this process and not to its forked children."""

    def __init__(self) -> None:
        self.team: Team | None = None
        self.lock = threading.Lock()


_process = _Process()


def _forget() -> None:
    """Threads do not survive a fork, and a lock may be held forever by one that is gone."""
    _process.team, _process.lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def run(execute: Execute, context: np.ndarray, matrix: np.ndarray, max_threads: int) -> None:
    """Run a program on torch's number of threads, at most ``max_threads``; alone if the team is busy."""
    threads = min(torch.get_num_threads(), max_threads)
    if threads > 1 and _process.lock.acquire(blocking=False):
        try:
            _team(execute, threads).run(context, matrix)
        finally:
            _process.lock.release()
    else:
        execute(context.ctypes.data, matrix.ctypes.data, len(matrix), 0, 1)


def _team(execute: Execute, threads: int) -> Team:
    team = _process.team
    if team is None or team.stopped or team.threads != threads:
        if team is not None and not team.stopped:
            team.stop()
        team = _process.team = Team(execute, threads)
    return team
