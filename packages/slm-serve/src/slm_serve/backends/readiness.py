"""A check before the server is ready: every served model generates."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from slm_kv import Handle, KVError, SamplingParams, TextEngine
from slm_serve.errors import StartError

logger = logging.getLogger("slm_serve")
PROMPT = "Once upon a time"
NEW_TOKENS = 2  # the second by a decode step, which may compute all models in one batch


def check_generation(engine: TextEngine, adapters: Mapping[str, str]) -> None:
    """Generate with all served models at the same time.

    Args:
        adapters: the engine's name of each served model, by served name.

    Raises StartError, one sentence with the name of the model, if one of them fails.
    """
    handles: dict[str, Handle] = {}
    for name, adapter in adapters.items():
        try:
            handles[name] = _submit(engine, adapter)
        except KVError as error:
            raise _start_error(name, error) from error
    while engine.busy:
        engine.step()
    for name, handle in handles.items():
        if handle.exception:
            raise _start_error(name, handle.exception) from handle.exception


def _submit(engine: TextEngine, adapter: str) -> Handle:
    assert engine.tokenizer
    context = engine.context_limits.tokens
    prompt = list(engine.tokenizer(PROMPT)["input_ids"] or [0])[: max(context - 1, 1)]
    params = SamplingParams(max_new_tokens=min(NEW_TOKENS, context), temperature=0, ignore_eos=True)
    return engine.submit(prompt, params, adapter=adapter)


def _start_error(name: str, error: Exception) -> StartError:
    logger.debug("%s cannot generate", name, exc_info=error)
    if isinstance(error, KVError):  # its message contains a remedy
        return StartError(f"{name!r} cannot generate: {error}")
    reason = next(iter(str(error).splitlines()), "")
    return StartError(
        f"{name!r} cannot generate: {type(error).__name__}: {reason}; try another --dtype or --backend transformers"
    )
