"""vLLM as a contender: a child process that is started once and answers a workload in each round."""

import json
import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from slm_bench.errors import BenchError
from slm_bench.harness.processes import last_error
from slm_bench.kv.engine import vllm_worker
from slm_bench.kv.engine.workload import Tokens, Workload

CACHE_GIGABYTES = 1
VLLM_SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": str(CACHE_GIGABYTES),
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # otherwise it binds its threads to cores of its own choice
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",  # the model is a local folder
}


class Vllm:
    """vLLM's offline engine, without its tokenizer, run by the interpreter ``python``.

    Its log goes to ``vllm.log`` in ``folder``, the folder of the model. Raises BenchError if it does not start.
    """

    def __init__(self, python: str, folder: Path, dtype: str, threads: int, max_tokens: int, sequences: int) -> None:
        self._log = folder / "vllm.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [python, vllm_worker.__file__, str(folder), dtype, str(max_tokens), str(sequences)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | VLLM_SETTINGS | {"OMP_NUM_THREADS": str(threads)},
            )
        try:
            self.name = f"vLLM {self._read()['version']}"
        except BenchError:
            self.close()
            raise

    def answer(self, work: Workload) -> list[Tokens]:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the process ended; _read reports why
            print(json.dumps({"prompts": work.prompts, "new": work.new}), file=self._process.stdin, flush=True)
        tokens: list[Tokens] = self._read()["tokens"]
        return tokens

    def close(self) -> None:
        """Close the standard input of the process, which ends it; kill it if it is still running after a minute."""
        try:
            self._process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BenchError(f"vLLM ended: {last_error(self._log.read_text(errors='replace'))}")
        message: dict[str, Any] = json.loads(line)
        return message
