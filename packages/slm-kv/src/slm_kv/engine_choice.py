"""Choosing an engine: pages where the model's attention can use them, else transformers' own generation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict, Unpack, get_args

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from slm_kv.engine.context_limits import OnFull
from slm_kv.engine.engine import Engine
from slm_kv.engine.step.graphed_decode import CudaGraphs
from slm_kv.engine.vocabulary import Prompt
from slm_kv.errors import REMEDY, KVError, UnsupportedModel, require_at_least
from slm_kv.fallback.engine import TransformersEngine
from slm_kv.linear.quantised_selection import QuantisedFormat
from slm_kv.sampling.speculation import Speculate

Backend = Literal["auto", "paged", "transformers"]


class EngineOptions(TypedDict, total=False):
    """The options of ``Engine``."""

    page_size: int
    max_pages: int
    max_sequences: int
    max_step_tokens: int
    on_full: OnFull
    prefix_caching: bool
    packed: bool
    weights: QuantisedFormat | None
    gate_text: Prompt | None
    speculate: Speculate
    cuda_graphs: CudaGraphs


def create_engine(
    models: PreTrainedModel | Sequence[PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    backend: Backend = "auto",
    **options: Unpack[EngineOptions],
) -> Engine | TransformersEngine:
    """Create an engine for ``models``.

    Args:
        models: See Engine.
        tokenizer: See Engine.
        backend: ``paged`` is Engine, ``transformers`` is TransformersEngine, ``auto`` the first of them that can serve
            the model: ``reason`` of the result says why pages are not used.
        options: Those of Engine. For TransformersEngine the tokens of the pool are the limit of a request, and what
            only makes pages faster has no effect.

    Raises:
        KVError: an option is invalid or not possible with the engine; ``paged`` cannot serve the model; or no engine
            can.
    """
    if backend not in get_args(Backend):
        raise KVError(f"backend={backend!r} is not one of {', '.join(get_args(Backend))}")
    if backend == "transformers":
        return _transformers_engine(models, tokenizer, None, options)
    try:
        return Engine(models, tokenizer, **options)
    except UnsupportedModel as error:
        if backend == "paged":
            raise
        return _transformers_engine(models, tokenizer, str(error).removesuffix(REMEDY), options)


def _transformers_engine(
    models: PreTrainedModel | Sequence[PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase | None,
    reason: str | None,
    options: EngineOptions,
) -> TransformersEngine:
    page_size, max_pages = options.get("page_size", 16), options.get("max_pages", 256)
    require_at_least(1, page_size=page_size, max_pages=max_pages)
    if (weights := options.get("weights")) is not None:
        cause = f" ({reason})" if reason else ""
        raise KVError(
            f"{weights} needs the paged engine, and transformers' own generation is used{cause}; leave {weights} out"
        )
    return TransformersEngine(
        models,
        tokenizer,
        max_sequences=options.get("max_sequences", 4),
        max_tokens=page_size * max_pages,
        on_full=options.get("on_full", "refuse"),
        reason=reason,
    )
