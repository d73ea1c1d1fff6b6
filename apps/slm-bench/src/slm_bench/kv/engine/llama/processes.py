"""slm-kv's engine and llama.cpp, each in a child process of its own for each format of the weights."""

import sys
from pathlib import Path
from typing import NamedTuple

from slm_bench.kv.engine.llama import llama_worker, slm_worker
from slm_bench.kv.engine.llama.timeline import Timeline
from slm_bench.kv.engine.worker_process import IllegalInstruction, WorkerProcess
from slm_bench.kv.engine.workload import Tokens, Workload


class Limits(NamedTuple):
    """What the processes are started for."""

    threads: int
    max_tokens: int  # of a request, with its prompt
    sequences: int  # at the same time


class TimedWorker(WorkerProcess):
    """A program that reports when it generated each token, and scores texts."""

    name: str

    def answer(self, work: Workload) -> Timeline:
        """Generate greedily."""
        return Timeline(**self.ask({"prompts": work.prompts, "new": work.new}))

    def loss(self, rows: list[Tokens]) -> float:
        """Return the mean negative log-likelihood of the tokens after the first of each row, in nats."""
        loss: float = self.ask({"score": rows})["loss"]
        return loss


class SlmProcess(TimedWorker):
    """slm-kv's engine on a model that it loads itself.

    Args:
        model_path: As ``load`` of slm-kv takes it.
        dtype: The name of the dtype.
        weights: ``q8``, ``q4``, or the name of the dtype.
        log: The file for its standard error.
        limits: What it is started for.
    """

    def __init__(self, model_path: str, dtype: str, weights: str, log: Path, limits: Limits) -> None:
        command = [sys.executable, "-m", slm_worker.__name__, model_path, dtype, weights, *map(str, limits)]
        super().__init__("slm-kv", command, log, {})
        self.name = f"slm-kv {weights}"


class LlamaCpp(TimedWorker):
    """llama.cpp on the GGUF file ``path``, run by the interpreter ``python``. Its log goes beside the file."""

    def __init__(self, python: str, path: Path, limits: Limits, repack: bool = True) -> None:
        command = [python, llama_worker.__file__, str(path), *map(str, limits)]
        command += [] if repack else [llama_worker.WITHOUT_REPACKING]
        environment = {"OMP_NUM_THREADS": str(limits.threads)}
        super().__init__("llama.cpp", command, path.with_suffix(".log"), environment)
        self.name = f"llama.cpp {self.version} {path.stem}" + ("" if repack else ", not repacked")
        try:
            self.ask({"prompts": [[0, 0]], "new": [2]})  # an instruction that this CPU lacks ends the process here
        except IllegalInstruction:
            self.close()
            raise


def start_llama(python: str, path: Path, limits: Limits) -> LlamaCpp:
    """Start llama.cpp, without repacked weights if those need an instruction that is missing here (AMX in some VMs).

    Raises:
        BenchError: it does not start.
    """
    try:
        return LlamaCpp(python, path, limits)
    except IllegalInstruction:
        return LlamaCpp(python, path, limits, repack=False)
