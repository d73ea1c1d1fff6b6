"""Loading a backend from settings."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from slm_serve.backends.protocol import Backend
from slm_serve.backends.served_models import served_models, served_tokenizers
from slm_serve.errors import StartError
from slm_serve.settings import Settings

if TYPE_CHECKING:
    from slm_adapters import LoadedAdapters
    from slm_kv import TextEngine

logger = logging.getLogger("slm_serve")


def load_backend(settings: Settings, loop: asyncio.AbstractEventLoop) -> Backend:
    """Load the backend selected by ``settings``; its results arrive on ``loop``. Slow: it reads the models' weights.

    Raises ValueError, one sentence, for anything missing, damaged or unsuitable.
    """
    _check_adapter_root(settings)
    if settings.backend == "transformers" and settings.int8 is not None:
        raise StartError("--int8 needs the paged engine; leave it out with --backend transformers")
    if settings.backend == "vllm":
        from slm_serve.backends.vllm.backend import VLLMBackend

        return VLLMBackend.start(settings, loop)
    return _load_engine_backend(settings, loop)


def _check_adapter_root(settings: Settings) -> None:
    root = settings.adapter_root
    if root is None:
        return
    if not Path(root).expanduser().is_dir():
        raise StartError(f"--adapter_root {root} is not a folder; create it, or give another one")
    if settings.api_key is None:
        logger.warning("--adapter_root has no effect without an API key; set SLM_API_KEY")


def _load_engine_backend(settings: Settings, loop: asyncio.AbstractEventLoop) -> Backend:
    # Imported here, on the loading thread, so that the server answers while torch is being imported.
    import torch
    from transformers.utils.logging import disable_progress_bar

    from slm_adapters import load_adapters
    from slm_kv import BASE_ADAPTER, read_int8_text, set_threads
    from slm_serve.backends.engine_backend import EngineBackend
    from slm_serve.backends.readiness import check_generation

    disable_progress_bar()
    int8_text = None if settings.int8 is None else read_int8_text(settings.int8)
    dtype = getattr(torch, settings.dtype)
    loaded = load_adapters(settings.model_path, settings.adapters, dtype=dtype, device=settings.device)
    served = served_models(settings, loaded.base, dict.fromkeys(settings.adapters, "unmerged"))
    set_threads(loaded.models[0], settings.threads)
    engine = _create_engine(settings, loaded, int8_text)
    check_generation(engine, {name: loaded.adapters.get(name, BASE_ADAPTER) for name in served})
    return EngineBackend(
        engine,
        served,
        loaded.adapters,
        served_tokenizers(served, loaded.tokenizers),
        loop,
        summary=_summary(engine),
        stream_interval=settings.stream_interval,
        loader=loaded.loader,
    )


def _create_engine(settings: Settings, loaded: LoadedAdapters, int8_text: str | None) -> TextEngine:
    from slm_kv import UnsupportedModel, create_engine

    assert settings.backend != "vllm"
    try:
        return create_engine(
            loaded.models,
            loaded.tokenizer,
            backend="paged" if settings.backend == "engine" else settings.backend,
            page_size=settings.page_size,
            max_pages=settings.max_pages,
            max_sequences=settings.max_sequences,
            # A step has at least one token for each running sequence.
            max_step_tokens=max(settings.max_step_tokens, settings.max_sequences),
            int8_text=int8_text,
            speculate=settings.speculate,
        )
    except UnsupportedModel as error:
        reason = str(error).rpartition(";")[0]  # its remedy, the model's own generate, is --backend transformers here
        raise StartError(f"{reason}; serve it with --backend transformers instead of engine") from error


def _summary(engine: TextEngine) -> str:
    import torch

    name = "engine" if engine.kind == "paged" else engine.kind
    dtype = str(engine.dtype).removeprefix("torch.")
    int8 = f", linear layers in 8 bits ({engine.int8.summary})" if engine.int8 else ""
    *lines, _ = engine.summary.splitlines()  # the last one describes the model
    return "\n".join([f"backend: {name} on {engine.device}, {dtype}, threads: {torch.get_num_threads()}{int8}", *lines])
