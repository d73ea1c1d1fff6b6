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
    from slm_kv import TextEngine, WeightOptions

logger = logging.getLogger("slm_serve")


def load_backend(settings: Settings, loop: asyncio.AbstractEventLoop) -> Backend:
    """Load the backend selected by ``settings``; its results arrive on ``loop``. Slow: it reads the models' weights.

    Raises ValueError, one sentence, for anything missing, damaged or unsuitable.
    """
    _check_adapter_root(settings)
    if settings.backend == "transformers" and settings.weights in ("q8", "q4"):
        raise StartError(
            f"--weights {settings.weights} needs the paged engine; leave it out with --backend transformers"
        )
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
    from transformers.utils.logging import disable_progress_bar

    from slm_adapters import load_adapters
    from slm_kv import BASE_ADAPTER, DtypeChoice, set_threads, weight_options
    from slm_serve.backends.engine_backend import EngineBackend
    from slm_serve.backends.readiness import check_generation

    disable_progress_bar()
    options = weight_options(settings.weights, settings.weights_text, settings.dtype)
    dtype = DtypeChoice(options.dtype)
    loaded = load_adapters(settings.model_path, settings.adapters, dtype=dtype, device=settings.device)
    served = served_models(settings, loaded.base, dict.fromkeys(settings.adapters, "unmerged"))
    set_threads(loaded.models[0], settings.threads)
    engine = _create_engine(settings, loaded, options)
    check_generation(engine, {name: loaded.adapters.get(name, BASE_ADAPTER) for name in served})
    return EngineBackend(
        engine,
        served,
        loaded.adapters,
        served_tokenizers(served, loaded.tokenizers),
        loop,
        summary=_summary(engine, f"{options.weights} of {dtype.reason}" if options.weights else dtype.reason),
        stream_interval=settings.stream_interval,
        loader=loaded.loader,
    )


def _create_engine(settings: Settings, loaded: LoadedAdapters, options: WeightOptions) -> TextEngine:
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
            weights=options.weights,
            gate_text=options.gate_text,
            speculate=settings.speculate,
            cuda_graphs=settings.cuda_graphs,
        )
    except UnsupportedModel as error:
        reason = str(error).rpartition(";")[0]  # its remedy, the model's own generate, is --backend transformers here
        raise StartError(f"{reason}; serve it with --backend transformers instead of engine") from error


def _summary(engine: TextEngine, weights: str) -> str:
    import torch

    activations = str(engine.dtype).removeprefix("torch.")
    name = "engine" if engine.kind == "paged" else engine.kind
    quantised = engine.quantised
    packed = f", {quantised.layer_summary} ({quantised.summary})" if quantised else ""
    *lines, _ = engine.summary.splitlines()  # the last one describes the model
    backend = f"backend: {name} on {engine.device}, {activations}, threads: {torch.get_num_threads()}{packed}"
    return "\n".join([f"weights: {weights}", backend, *lines])
