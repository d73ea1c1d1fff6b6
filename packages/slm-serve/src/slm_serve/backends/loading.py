"""Loading a backend from settings."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from slm_serve.backends.protocol import Backend
from slm_serve.backends.served_models import served_models
from slm_serve.settings import Settings

if TYPE_CHECKING:
    from slm_kv import Engine


def load_backend(settings: Settings, loop: asyncio.AbstractEventLoop) -> Backend:
    """Load the backend selected by ``settings``; its results arrive on ``loop``. Slow: it reads the models' weights.

    Raises ValueError, one sentence, for anything missing, damaged or unsuitable.
    """
    if settings.backend == "vllm":
        from slm_serve.backends.vllm.backend import VLLMBackend

        return VLLMBackend.start(settings, loop)
    return _load_engine_backend(settings, loop)


def _load_engine_backend(settings: Settings, loop: asyncio.AbstractEventLoop) -> Backend:
    # Imported here, on the loading thread, so that the server answers while torch is being imported.
    import torch
    from transformers.utils.logging import disable_progress_bar

    from slm_adapters import load_adapters
    from slm_kv import BASE_ADAPTER, Engine, read_int8_text, set_threads
    from slm_serve.backends.engine_backend import EngineBackend
    from slm_serve.backends.readiness import check_generation

    disable_progress_bar()
    int8_text = None if settings.int8 is None else read_int8_text(settings.int8)
    dtype = getattr(torch, settings.dtype)
    loaded = load_adapters(settings.model_path, settings.adapters, dtype=dtype, device=settings.device)
    served = served_models(settings, loaded.base, dict.fromkeys(settings.adapters, "unmerged"))
    set_threads(loaded.models[0], settings.threads)
    engine = Engine(
        loaded.models,
        loaded.tokenizer,
        page_size=settings.page_size,
        max_pages=settings.max_pages,
        max_sequences=settings.max_sequences,
        # A step has at least one token for each running sequence.
        max_step_tokens=max(settings.max_step_tokens, settings.max_sequences),
        int8_text=int8_text,
    )
    check_generation(engine, {name: loaded.adapters.get(name, BASE_ADAPTER) for name in served})
    interval = settings.stream_interval
    return EngineBackend(engine, served, loaded.adapters, loop, summary=_summary(engine), stream_interval=interval)


def _summary(engine: Engine) -> str:
    import torch

    pool = engine.summary.splitlines()[0]
    dtype = str(engine.storage.dtype).removeprefix("torch.")
    int8 = f", linear layers in 8 bits ({engine.int8.summary})" if engine.int8 else ""
    return f"on {engine.storage.device}, {dtype}, threads: {torch.get_num_threads()}{int8}\n{pool}"
