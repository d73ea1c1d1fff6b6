"""Loading the models of a group once, with one engine for the base and its adapters."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slm_adapters import AdapterError
from slm_lab.evaluation.members import Group, Member

if TYPE_CHECKING:
    from slm_adapters import LoadedAdapters
    from slm_kv import TextEngine

DEFAULT_MAX_LENGTH = 8192  # tokens of context, unless the model has fewer positions
STEP_TOKENS = 2048  # long steps: nobody waits for a first token
POOL_TOKENS = 8192  # at least, so that many requests run at the same time
PAGE_SIZE = 16


@dataclass(frozen=True)
class EngineOptions:
    """How models are loaded.

    Attributes:
        dtype: ``auto`` or a dtype of the weights.
        device: None for a GPU if there is one.
        max_length: Tokens of context; None for the model's positions, at most ``DEFAULT_MAX_LENGTH``.
        threads: Threads of torch; None for the fastest number.
    """

    dtype: str = "auto"
    device: str | None = None
    max_length: int | None = None
    threads: int | None = None


@dataclass(frozen=True)
class OpenModel:
    """A model that is ready to be evaluated.

    Attributes:
        member: Which one it is.
        engine: The engine, which several models share.
        adapter: The name of its adapter in the engine; ``__base__`` for the base.
        tokenizer: Its own.
        max_length: Tokens of context: the largest number of tokens from which the next one is predicted.
        dtype: The dtype of its weights.
    """

    member: Member
    engine: TextEngine
    adapter: str
    tokenizer: Any
    max_length: int
    dtype: str


def open_models(group: Group, wanted: Collection[Member], options: EngineOptions) -> Iterator[OpenModel]:
    """Yield the ``wanted`` models of a group, each ready until the next one is requested.

    The base is loaded once, unless adapters have tokens of their own: these would change the base's probabilities.

    Raises:
        AdapterError, KVError: A model cannot be loaded.
    """
    adapters = [member for member in group.adapters if member in wanted]
    model = group.model if group.model in wanted else None
    if not adapters and model is None:
        return
    try:
        loaded, dtype = _load(group.base.name, adapters, options)
    except AdapterError:
        if len(adapters) < 2 and not (adapters and model):
            raise
        for member in [model, *adapters] if model else adapters:  # adapters that do not fit together
            yield from open_models(group, [member], options)
        return
    alone = bool(model and adapters) and not _shares_vocabulary(loaded)
    with _create_engine(loaded, options) as engine:
        for member in [model, *adapters] if model and not alone else adapters:
            yield _open(member, engine, loaded, options, dtype)
    if model and alone:
        del loaded, engine
        yield from open_models(group, [model], options)


def _load(base: str, adapters: list[Member], options: EngineOptions) -> tuple[LoadedAdapters, str]:
    from transformers.utils.logging import disable_progress_bar

    from slm_adapters import load_adapters
    from slm_kv import DtypeChoice, set_threads

    disable_progress_bar()
    dtype = DtypeChoice(options.dtype)
    paths = {member.path: member.path for member in adapters}
    loaded = load_adapters(base, paths, dtype=dtype, device=options.device)
    set_threads(loaded.models[0], options.threads)
    return loaded, dtype.name


def _shares_vocabulary(loaded: LoadedAdapters) -> bool:
    base = loaded.tokenizers.base
    return base is not None and len(base) == len(loaded.tokenizer)


def _create_engine(loaded: LoadedAdapters, options: EngineOptions) -> TextEngine:
    from slm_kv import create_engine

    tokens = max(_max_length(loaded, options), POOL_TOKENS)
    return create_engine(
        loaded.models,
        loaded.tokenizer,
        page_size=PAGE_SIZE,
        max_pages=-(-tokens // PAGE_SIZE) + 1,  # a page more, so that the positions are the limit
        max_step_tokens=STEP_TOKENS,
        on_full="stop",
    )


def _max_length(loaded: LoadedAdapters, options: EngineOptions) -> int:
    config: Any = loaded.models[0].config
    positions = getattr(config.get_text_config(), "max_position_embeddings", None) or DEFAULT_MAX_LENGTH
    return min(positions, options.max_length or DEFAULT_MAX_LENGTH)


def _open(member: Member, engine: TextEngine, loaded: LoadedAdapters, options: EngineOptions, dtype: str) -> OpenModel:
    from slm_kv import BASE_ADAPTER

    adapter = loaded.adapters.get(member.path, BASE_ADAPTER)
    tokenizer = loaded.tokenizers.adapters.get(member.path) or loaded.tokenizers.base or loaded.tokenizer
    max_length = min(_max_length(loaded, options), engine.context_limits.tokens)
    return OpenModel(member, engine, adapter, tokenizer, max_length, dtype)
