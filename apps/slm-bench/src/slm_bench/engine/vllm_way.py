"""vLLM as one of the ways: a child process that is started once and answers between the others."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from slm_bench.engine import vllm_worker
from slm_bench.engine.workload import Tokens, Workload
from slm_kv import KVError

CACHE_GIGABYTES = 1


class Vllm:
    """vLLM's own engine, without its tokenizer, by the interpreter ``python``. Its output goes to ``log``.

    Raises KVError where it does not start.
    """

    def __init__(self, python: str, folder: Path, dtype: str, threads: int, longest: int, sequences: int) -> None:
        self._log = folder / "vllm.log"
        settings = {
            "VLLM_CPU_KVCACHE_SPACE": str(CACHE_GIGABYTES),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(threads),
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",  # the model is a folder here
        }
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [python, vllm_worker.__file__, str(folder), dtype, str(longest), str(sequences)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | settings,
            )
        try:
            self.name = f"vLLM {self._read()['version']}"
        except KVError:
            self.close()
            raise

    def answer(self, work: Workload) -> list[Tokens]:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, and so has what it says: reading tells why
            print(json.dumps({"prompts": work.prompts, "new": work.new}), file=self._process.stdin, flush=True)
        tokens: list[Tokens] = self._read()["tokens"]
        return tokens

    def close(self) -> None:
        """Let it end by itself; what does not within a minute is ended."""
        try:
            self._process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            said = self._log.read_text(errors="replace").strip().splitlines()
            errors = [text for text in said if "Error" in text]
            raise KVError(f"vLLM ended: {(errors or said or ['it said nothing'])[-1].strip()}")
        found: dict[str, Any] = json.loads(line)
        return found


def python_with_vllm(asked: str | None) -> str | None:
    """The interpreter that has vLLM: ``asked``, else this one where it does, else None."""
    if asked:
        if not shutil.which(asked):
            raise KVError(f"--vllm_python {asked}: there is no such interpreter")
        return asked
    return sys.executable if importlib.util.find_spec("vllm") else None
