"""Training and the engine without enough memory: what they say, and whether the process goes on."""

from __future__ import annotations

import gc
import resource
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import psutil
import torch

from gpu_checks.models import new_model, save_model
from gpu_checks.recorder import Recorder
from slm_kv import Engine, SamplingParams
from slm_testing.train.device_runs import device_flags
from slm_train import main

ALL_ROWS, ONE_ROW = 100_000, 1
DOCUMENTS = 400
# Bytes that training and the engine may take beyond what the process has: enough for a small batch only.
TRAINING_ROOM, SMALL_TRAINING_ROOM, ENGINE_ROOM = 8 * 2**30, 400 * 2**20, 32 * 2**20
PAGE_SIZE, SHORT, LONG, SMALL_LONG = 16, 8, 8000, 200


def run(recorder: Recorder) -> None:
    """Train with too large a batch and then with a small one; then give the engine too long a prompt."""
    base = save_model(recorder.sizes.speed_model, recorder.folder / "base")
    room = SMALL_TRAINING_ROOM if recorder.small else TRAINING_ROOM
    with limited_memory(recorder.device, room):
        code, errors = train(recorder, base, ALL_ROWS)
        lines = errors.strip().splitlines()
        is_sentence = code == 2 and len(lines) == 1 and "out of memory" in errors
        recorder.claim("sentence", is_sentence, f"exit code {code}: {' / '.join(lines[-3:])}")
        code, errors = train(recorder, base, ONE_ROW)
    recorder.claim("training", code == 0, f"exit code {code}: {' / '.join(errors.strip().splitlines()[-3:])}")
    _check_engine(recorder)


def train(recorder: Recorder, base: Path, batch: int) -> tuple[int, str]:
    """Train one step of ``batch`` rows, without the fused loss. Returns the exit code and the errors."""
    settings = {"mode": "baseline", "per_device_train_batch_size": batch, "per_device_eval_batch_size": 1}
    settings |= {"max_steps": 1, "block_size": recorder.sizes.block_size, "max_train_samples": DOCUMENTS}
    flags = device_flags(base, recorder.folder / f"run-{batch}", recorder.device, fused_loss="false", **settings)
    errors = StringIO()
    with redirect_stderr(errors):
        code = main(flags)
    gc.collect()
    return code, errors.getvalue()


@contextmanager
def limited_memory(device: torch.device, room: int) -> Iterator[None]:
    """Let this process take only ``room`` bytes more than it has: of the GPU, or on a CPU of addresses."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(device) + room) / total, device)
    else:
        before = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + room, before[1]))
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0, device)
        else:
            resource.setrlimit(resource.RLIMIT_AS, before)


def _check_engine(recorder: Recorder) -> None:
    model: Any = new_model(recorder.sizes.speed_model, recorder.device, torch.bfloat16)
    tokens = SMALL_LONG if recorder.small else LONG
    settings: dict[str, Any] = {"max_pages": tokens // PAGE_SIZE + 4, "max_step_tokens": tokens, "max_sequences": 2}
    with Engine(model, page_size=PAGE_SIZE, **settings) as engine, _too_little_for(recorder, model, tokens):
        two = SamplingParams(max_new_tokens=2, temperature=0, ignore_eos=True)
        long, short = (engine.submit([1 + n % 1000 for n in range(count)], two) for count in (tokens, SHORT))
        while engine.busy:
            engine.step()
        after = engine.submit([5] * SHORT, two)
        while engine.busy:
            engine.step()
    answered = [len(handle.token_ids) for handle in (short, after)]
    holds = long.finish_reason == "error" and "memory" in str(long.error) and answered == [2, 2]
    recorder.claim("engine", holds, f"{long.error or 'no error'}; the others got {answered} tokens"[:300])


@contextmanager
def _too_little_for(recorder: Recorder, model: Any, tokens: int) -> Iterator[None]:
    """Limit the GPU's memory; on a CPU, whose limit no small prompt reaches, let the model fail for ``tokens``."""
    if recorder.on_gpu:
        with limited_memory(recorder.device, ENGINE_ROOM):
            yield
        return

    def fail(_: object, ids: tuple[torch.Tensor, ...]) -> None:
        if ids[0].numel() >= tokens:
            raise torch.OutOfMemoryError("simulated on a CPU: out of memory")

    hook = model.get_input_embeddings().register_forward_pre_hook(fail)
    try:
        yield
    finally:
        hook.remove()
