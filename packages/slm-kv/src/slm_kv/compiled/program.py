"""Programs: one compiled call runs a list of compiled operations over addresses, for all rows of a step.

An operation is a numba ``cfunc`` of ``SIGNATURE``. Each thread of the team calls every instruction, and an operation
computes the thread's share of it. Buffers hold float32; R rows are at most ``MAX_ROWS``.
"""

# In compiled functions the annotation ``int`` stands for int64, also for an address.
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import cfunc, njit, types

from slm_kv.compiled import team
from slm_kv.compiled.addresses import atomic_add, atomic_load, call_operation, pause, word, yield_core
from slm_kv.compiled.block_weights import BLOCK, aligned_zeros
from slm_kv.compiled.elements import NUMBA_OPTIONS

# An operation's arguments: the address of the step's context, that of the instruction's arguments, thread, threads.
SIGNATURE = types.void(types.int64, types.int64, types.int64, types.int64)
OPERATION_OPTIONS = {name: option for name, option in NUMBA_OPTIONS.items() if name != "nogil"}
WORDS = 24  # of an instruction: the operation's address and its arguments
MAX_ROWS = 32
SPINS = 20_000  # of a waiting thread before it offers its core to others

# The words of a step's context.
ROWS = 0  # R
BARRIER = team.BARRIER  # address of the team's counter, which ``Program.run`` sets
POSITIONS = 2  # address of int64 [R]
SLOTS = 3  # address of int64 [R]: page * page_size + slot, where a row's key and value are stored
PAGES = 4  # address of int32 [R, P]: the pages of each row's sequence
PAGES_STRIDE = 5  # P
LENGTHS = 6  # address of int32 [R]: tokens that a row attends to, its own included
ADAPTERS = 7  # address of int32 [R]: a row's adapter; -1 for none

Instruction = tuple[int, ...]


class Buffer(NamedTuple):
    """The address of float32 [R, width], or of one such array for each thread."""

    address: int
    row_bytes: int
    thread_bytes: int = 0
    width: int = 0

    def columns(self, first: int, width: int) -> Buffer:
        """The view of ``width`` columns from ``first`` on."""
        return self._replace(address=self.address + 4 * first, width=width)

    @property
    def words(self) -> tuple[int, int, int]:
        """What an instruction contains of it: address, bytes from row to row, bytes from thread to thread."""
        return self.address, self.row_bytes, self.thread_bytes


class Workspace:
    """Buffers of ``rows`` rows for at most ``threads`` threads; it must outlive the programs that use them."""

    def __init__(self, rows: int = MAX_ROWS, threads: int = 1) -> None:
        self.max_rows, self.threads = rows, threads
        self._arrays: dict[int, np.ndarray] = {}

    def rows(self, width: int) -> Buffer:
        """A buffer that the threads share. Rows are padded with zeros to whole blocks of 64."""
        return self._allocate(width, 1)

    def private(self, width: int, threads: int | None = None) -> Buffer:
        """A buffer for each thread."""
        return self._allocate(width, threads or self.threads)

    def bytes(self, count: int) -> int:
        """The address of ``count`` zero bytes."""
        array = aligned_zeros(1, count)[0]
        self._arrays[array.ctypes.data] = array
        return array.ctypes.data

    def array(self, buffer: Buffer, thread: int = 0) -> np.ndarray:
        """View a buffer of this workspace, or columns of it, as float32 [rows, width]."""
        start = max(address for address in self._arrays if address <= buffer.address)
        flat = self._arrays[start].view(np.float32)
        first = (buffer.address - start + thread * buffer.thread_bytes) // 4
        shape, strides = (self.max_rows, buffer.width), (buffer.row_bytes, 4)
        return np.lib.stride_tricks.as_strided(flat[first:], shape, strides)

    def _allocate(self, width: int, copies: int) -> Buffer:
        row_bytes = -(-width // BLOCK) * BLOCK * 4
        thread_bytes = self.max_rows * row_bytes
        return Buffer(self.bytes(copies * thread_bytes), row_bytes, thread_bytes if copies > 1 else 0, width)


class StepContext:
    """What differs from step to step, as int64 words that operations read.

    Attributes:
        words: The array; ``context[ROWS] = 2`` is ``context.words[ROWS] = 2``.
    """

    ROWS, BARRIER, POSITIONS, SLOTS, PAGES = ROWS, BARRIER, POSITIONS, SLOTS, PAGES
    PAGES_STRIDE, LENGTHS, ADAPTERS, SIZE = PAGES_STRIDE, LENGTHS, ADAPTERS, 16

    def __init__(self) -> None:
        self.words = np.zeros(self.SIZE, np.int64)
        self._keep: dict[int, np.ndarray] = {}

    def __setitem__(self, field: int, number: int) -> None:
        self.words[field] = number

    def set_array(self, field: int, array: np.ndarray) -> None:
        """Make ``field`` the address of a C-contiguous array, and keep the array alive."""
        self._keep[field] = array
        self.words[field] = array.ctypes.data


class Program:
    """Instructions, and the objects whose memory they read.

    Args:
        instructions: Run in this order; without a barrier between two of them, threads do not wait for each other.
        keep: Objects that must outlive the program: weights, workspaces, tables.
        threads: The most threads it may run on: as many as its private buffers are for.
    """

    def __init__(self, instructions: Sequence[Instruction], keep: Sequence[object], threads: int = 1) -> None:
        self._matrix = instruction_matrix(instructions)
        self._keep, self._threads = tuple(keep), threads

    def run(self, context: StepContext) -> None:
        """Run all instructions on the team of threads; returns when the last is done."""
        rows = int(context.words[StepContext.ROWS])
        if not 1 <= rows <= MAX_ROWS:
            raise ValueError(f"A compiled step has 1 to {MAX_ROWS} rows, not {rows}; split it")
        team.run(execute, context.words, self._matrix, self._threads)


def instruction_matrix(instructions: Sequence[Instruction]) -> np.ndarray:
    """Instructions as int64 [instructions, WORDS], which ``execute`` reads."""
    matrix = np.zeros((len(instructions), WORDS), np.int64)
    for line, instruction in zip(matrix, instructions, strict=True):
        line[: len(instruction)] = instruction
    return matrix


def float_bits(number: float) -> int:
    """A float32 as an argument of an instruction."""
    return int(np.float32(number).view(np.uint32))


@cache
def compile_operation(function: Callable[..., None]) -> Any:
    """Compile an operation, or load it from numba's cache on disk."""
    return cfunc(SIGNATURE, **OPERATION_OPTIONS)(function)


def barrier() -> Instruction:
    """Wait until all threads have finished the instructions before."""
    return (_barrier.address,)


@njit(**NUMBA_OPTIONS)
def wait(counter: int, threads: int) -> None:
    """Wait for the other threads. The int64 at ``counter`` only grows; it is negative after the team was given up."""
    if threads == 1:
        return
    arrived = atomic_add(counter, 1)
    target = (arrived // threads + 1) * threads
    spins = 0
    while arrived >= 0:
        now = atomic_load(counter)
        if now >= target or now < 0:
            return
        spins += 1
        if spins < SPINS:
            pause()
        else:
            yield_core()


@cfunc(SIGNATURE, **OPERATION_OPTIONS)
def _barrier(context: int, arguments: int, thread: int, threads: int) -> None:
    wait(word(context, BARRIER), threads)


@njit(types.void(*[types.int64] * 5), **NUMBA_OPTIONS)
def execute(context: int, matrix: int, instructions: int, thread: int, threads: int) -> None:
    """Run a program, then wait for the other threads: after that no thread reads ``context`` or ``matrix``."""
    counter = word(context, BARRIER)
    for index in range(instructions):
        line = matrix + index * WORDS * 8
        call_operation(word(line, 0), context, line + 8, thread, threads)
    wait(counter, threads)
