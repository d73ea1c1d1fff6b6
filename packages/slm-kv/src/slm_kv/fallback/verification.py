"""Checking on the loaded model that it can be served: it is causal, and its cache does not change the logits.

Shapes: T tokens, V vocabulary.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from slm_kv.engine.verification.float32_weights import float32_weights
from slm_kv.errors import KVError
from slm_kv.fallback.generation import start
from slm_kv.sampling.scores import check_finite

TOKENS = 12
# Prompts of so many of them are continued in turn. One token is shorter than any convolution.
PROMPTS = (1, 6)
# Differences relative to the spread of logits. Later tokens move those of a causal model by 0, or with experts by 1e-6.
# A cache moves them by at most 8e-6, because kernels for one token and for many differ; in bfloat16 by up to 0.09.
CAUSAL_TOLERANCE, CACHE_TOLERANCE, LOW_PRECISION_TOLERANCE = 1e-4, 1e-3, 0.2


@torch.inference_mode()
def find_cache_fault(model: Any, vocab_size: int) -> str | None:
    """Compare generation with the model's cache with one forward pass over a short text.

    Args:
        model: A model of transformers in eval mode, without a PeftModel wrapper.
        vocab_size: V.

    Returns:
        What is wrong with the cache, or None.

    Raises:
        KVError: the model is not a causal language model, fails on a short text, or gives NaN.
    """
    name = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        raise KVError(f"{name} is not a causal language model: it has an encoder and a decoder")
    if not model.can_generate():
        raise KVError(f"{name} is not a causal language model: transformers cannot generate with it")
    token_ids = _token_ids(model.config, vocab_size)
    with float32_weights(model, partial(_logits, model, token_ids)) as exact:
        _check_causal(model, token_ids, CAUSAL_TOLERANCE if exact else LOW_PRECISION_TOLERANCE)
        try:
            differences = [_difference(cached, expected) for cached, expected in _cached_and_whole(model, token_ids)]
        except Exception as error:
            return f"it fails ({_first_line(error)})"
    changes = max(differences) > (CACHE_TOLERANCE if exact else LOW_PRECISION_TOLERANCE)
    return "it changes the logits" if changes else None


def _check_causal(model: Any, token_ids: list[int], tolerance: float) -> None:
    name = type(model).__name__
    try:
        logits_TV, changed_TV = (_logits(model, ids) for ids in (token_ids, _with_other_end(token_ids)))
    except Exception as error:  # whatever the model's own code raises, the user reads one sentence
        raise KVError(f"{name} fails on a text of {TOKENS} tokens: {_first_line(error)}") from error
    check_finite(float(logits_TV.max()))
    half = TOKENS // 2
    if len(logits_TV) != TOKENS or _difference(changed_TV[:half], logits_TV[:half]) > tolerance:
        raise KVError(f"{name} is not a causal language model: the logits of a token depend on later tokens")


def _logits(model: Any, token_ids: list[int]) -> Tensor:
    """Logits [T, V] of one forward pass."""
    return next(start(model, token_ids, use_cache=False, all_logits=True)).float()


def _cached_and_whole(model: Any, token_ids: list[int]) -> list[tuple[Tensor, Tensor]]:
    """Logits of texts continued with the cache, and those of the same tokens in one forward pass."""
    logits_TV = _logits(model, token_ids)
    return [(cached, logits_TV[: len(cached)]) for cached in _cached_logits(model, token_ids)]


def _cached_logits(model: Any, token_ids: list[int]) -> list[Tensor]:
    """Logits [T, V] of texts that begin with PROMPTS and continue one token at a time, in turn.

    In turn, because some models keep their state in their layers (RecurrentGemma), where the next text overwrites it.
    """
    texts = [start(model, token_ids[:prompt], all_logits=True) for prompt in PROMPTS]
    rows = [[next(steps)] for steps in texts]
    for index in range(TOKENS - max(PROMPTS)):
        for steps, prompt, text_rows in zip(texts, PROMPTS, rows, strict=True):
            text_rows.append(steps.send(token_ids[prompt + index])[-1:])
    return [torch.cat(text_rows).float() for text_rows in rows]


def _with_other_end(token_ids: list[int]) -> list[int]:
    half = len(token_ids) // 2
    return token_ids[:half] + token_ids[half:][::-1]


def _difference(logits_TV: Tensor, expected_TV: Tensor) -> float:
    """The largest difference, relative to the spread of the expected logits over the vocabulary."""
    return float((logits_TV - expected_TV).abs().max() / expected_TV.std(dim=-1).mean())


def _token_ids(config: Any, vocab_size: int) -> list[int]:
    """Return different token ids, none of which the config names: such tokens may stand for images or padding."""
    configs = (config, config.get_text_config())
    named = {value for part in configs for value in part.to_dict().values() if isinstance(value, int)}
    order: list[int] = torch.randperm(vocab_size, generator=torch.Generator().manual_seed(0)).tolist()
    plain = [token for token in order if token not in named]
    return (plain * TOKENS or order * TOKENS)[:TOKENS]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
