"""llama.cpp as a contender: a child process for each format of the weights, started once."""

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from slm_bench.errors import BenchError
from slm_bench.harness.processes import last_error
from slm_bench.kv.engine import llama_worker
from slm_bench.kv.engine.workload import Tokens, Workload

MEGABYTE = 1_000_000


class LlamaCpp:
    """llama.cpp on the GGUF file ``path``, run by the interpreter ``python``. Its log goes beside the file.

    Attributes:
        seconds_to_start: From the start of the process until the model is loaded.

    Raises BenchError if it does not start.
    """

    def __init__(
        self, python: str, path: Path, threads: int, max_tokens: int, sequences: int, repack: bool = True
    ) -> None:
        self._log = path.with_suffix(".log")
        start = time.perf_counter()
        with self._log.open("w") as log:
            command = [python, llama_worker.__file__, str(path), *map(str, (threads, max_tokens, sequences))]
            self._process = subprocess.Popen(
                command + ([] if repack else [llama_worker.WITHOUT_REPACKING]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            )
        try:
            version = self._read()["version"]
            self.seconds_to_start = time.perf_counter() - start
            self._ask({"prompts": [[0, 0]], "new": [2]})  # an instruction that this CPU lacks ends the process here
        except BenchError:
            self.close()
            raise
        self.name = f"llama.cpp {version} {path.stem}" + ("" if repack else ", without repacking")

    def answer(self, work: Workload) -> list[Tokens]:
        tokens: list[Tokens] = self._ask({"prompts": work.prompts, "new": work.new})["tokens"]
        return tokens

    def loss(self, ids: Tokens) -> float:
        """Return the mean negative log-likelihood of the tokens after the first, in nats."""
        loss: float = self._ask({"score": ids})["loss"]
        return loss

    def memory(self) -> float:
        """Resident memory of the process in megabytes."""
        return float(psutil.Process(self._process.pid).memory_info().rss) / MEGABYTE

    def close(self) -> None:
        """Close the standard input of the process, which ends it; kill it if it is still running after a minute."""
        try:
            self._process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the process ended; _read reports why
            print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            message: dict[str, Any] = json.loads(line)
            return message
        if self._process.wait() == -signal.SIGILL:
            raise IllegalInstruction("llama.cpp used an instruction that this machine lacks; build it for this machine")
        raise BenchError(f"llama.cpp ended: {last_error(self._log.read_text(errors='replace'))}")


class IllegalInstruction(BenchError):
    """llama.cpp was compiled for a CPU with more instructions than this one has, or than the system allows."""


def start_llama(python: str, path: Path, threads: int, max_tokens: int, sequences: int) -> LlamaCpp:
    """Start llama.cpp, without repacked weights if those need an instruction that is missing here (AMX in some VMs).

    Raises BenchError if it does not start.
    """
    try:
        return LlamaCpp(python, path, threads, max_tokens, sequences)
    except IllegalInstruction:
        return LlamaCpp(python, path, threads, max_tokens, sequences, repack=False)
