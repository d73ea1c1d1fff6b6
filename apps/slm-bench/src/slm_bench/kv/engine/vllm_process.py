"""vLLM as a contender: a child process that is started once and answers a workload in each round."""

from pathlib import Path

from slm_bench.kv.engine import vllm_worker
from slm_bench.kv.engine.worker_process import WorkerProcess
from slm_bench.kv.engine.workload import Tokens, Workload

CACHE_GIGABYTES = 1
VLLM_SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": str(CACHE_GIGABYTES),
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # otherwise it binds its threads to cores of its own choice
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",  # the model is a local folder
}


class Vllm(WorkerProcess):
    """vLLM's offline engine, without its tokenizer, run by the interpreter ``python``.

    Its log goes to ``vllm.log`` in ``folder``, the folder of the model. Raises BenchError if it does not start.
    """

    def __init__(self, python: str, folder: Path, dtype: str, threads: int, max_tokens: int, sequences: int) -> None:
        command = [python, vllm_worker.__file__, str(folder), dtype, str(max_tokens), str(sequences)]
        environment = VLLM_SETTINGS | {"OMP_NUM_THREADS": str(threads)}
        super().__init__("vLLM", command, folder / "vllm.log", environment)
        self.name = f"vLLM {self.version}"

    def answer(self, work: Workload) -> list[Tokens]:
        """Return the new tokens of each request."""
        tokens: list[Tokens] = self.ask({"prompts": work.prompts, "new": work.new})["tokens"]
        return tokens
