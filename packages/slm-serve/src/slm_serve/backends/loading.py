"""From settings to a backend that is ready to answer. Slow: weights are read here."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from slm_serve.backends.protocol import Backend, Served
from slm_serve.errors import StartError
from slm_serve.settings import Settings

if TYPE_CHECKING:
    from slm_kv import Engine


def load_backend(settings: Settings, loop: asyncio.AbstractEventLoop) -> Backend:
    """The backend that ``settings`` ask for, whose answers arrive on ``loop``.

    Raises ValueError, one sentence, for whatever is missing, damaged or does not fit.
    """
    if settings.backend == "vllm":
        from slm_serve.backends.vllm.backend import VLLMBackend

        return VLLMBackend.start(settings, loop)
    return _engine_backend(settings, loop)


def _engine_backend(settings: Settings, loop: asyncio.AbstractEventLoop) -> Backend:
    import torch
    from transformers.utils.logging import disable_progress_bar

    from slm_adapters import load_adapters as load_several
    from slm_kv import Engine, set_threads
    from slm_kv import read_int8_text as int8_text
    from slm_serve.backends.engine_backend import EngineBackend

    disable_progress_bar()
    text = None if settings.int8 is None else int8_text(settings.int8)
    dtype = getattr(torch, settings.dtype)
    loaded = load_several(settings.model_path, settings.adapters, dtype=dtype, device=settings.device)
    served = names(settings, loaded.base, dict.fromkeys(settings.adapters, "unmerged"))
    set_threads(loaded.models[0], settings.threads)
    engine = Engine(
        loaded.models,
        loaded.tokenizer,
        page_size=settings.page_size,
        max_pages=settings.max_pages,
        max_sequences=settings.max_sequences,
        max_step_tokens=max(settings.max_step_tokens, settings.max_sequences),
        int8_text=text,
    )
    interval = settings.stream_interval
    return EngineBackend(engine, served, loaded.adapters, loop, summary=_summary(engine), interval=interval)


def names(settings: Settings, base: str, adapters: dict[str, str]) -> dict[str, Served]:
    """What is served by which name: ``base``, by a name without a path of this machine, and ``adapters``, of which
    each comes with what is done with its weights. The first is the default.

    Raises StartError where the base and an adapter have one name.
    """
    given = settings.served_model_name or (base if "/" in base and not Path(base).exists() else Path(base).name)
    if given in adapters:
        raise StartError(f"the base and an adapter are both called {given!r}; give another --served_model_name")
    found = {given: Served(given, "base", None, "as they are")}
    found |= {name: Served(name, "adapter", given, weights) for name, weights in adapters.items()}
    default = settings.default_adapter or given
    return {default: found[default], **found}


def _summary(engine: Engine) -> str:
    import torch

    pool = engine.summary.splitlines()[0]
    dtype = str(engine.storage.dtype).removeprefix("torch.")
    int8 = f", linear layers in 8 bits ({engine.int8.summary})" if engine.int8 else ""
    return f"on {engine.storage.device}, {dtype}, threads: {torch.get_num_threads()}{int8}\n{pool}"
