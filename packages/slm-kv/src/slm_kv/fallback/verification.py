"""Checking on the loaded model that it can be served: it is causal, and its cache does not change the logits.

Shapes: T tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from slm_kv.errors import KVError
from slm_kv.fallback.generation import start
from slm_kv.sampling.scores import check_finite

TOKENS = 12
PROMPT_TOKENS = 6  # the others are sent one by one


@torch.inference_mode()
def cache_is_exact(model: Any, vocab_size: int) -> bool:
    """Return whether generation with the model's cache gives the logits of one forward pass over the whole text.

    Args:
        model: A model of transformers in eval mode, without a PeftModel wrapper.
        vocab_size: V.

    Raises:
        KVError: the model is not a causal language model, or fails on a short text, or gives NaN.
    """
    name = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        raise KVError(f"{name} is not a causal language model: it has an encoder and a decoder")
    if not model.can_generate():
        raise KVError(f"{name} is not a causal language model: transformers cannot generate with it")
    token_ids = _token_ids(model.config, vocab_size)
    try:
        return _verify(model, token_ids)
    except KVError:
        raise
    except Exception as error:  # whatever the model's own code raises, a user reads one sentence
        lines = str(error).strip().splitlines() or [""]
        raise KVError(f"{name} fails on a text of {TOKENS} tokens: {type(error).__name__} {lines[0]}") from error


def _verify(model: Any, token_ids: list[int]) -> bool:
    name, tolerance = type(model).__name__, _tolerance(model)
    logits_TV = _logits(model, token_ids)
    check_finite(float(logits_TV.max()))
    if len(logits_TV) != len(token_ids):
        raise KVError(f"{name} gave logits for {len(logits_TV)} of {len(token_ids)} tokens, so they cannot be checked")
    half = len(token_ids) // 2
    changed = token_ids[:half] + token_ids[half:][::-1]
    if _difference(_logits(model, changed)[:half], logits_TV[:half]) > tolerance:
        raise KVError(f"{name} is not a causal language model: the logits of a token depend on later tokens")
    if _difference(_stepwise_logits(model, token_ids, use_cache=True), logits_TV) <= tolerance:
        return True
    if _difference(_stepwise_logits(model, token_ids, use_cache=False), logits_TV) <= tolerance:
        return False
    raise KVError(f"{name} gives other logits token by token than for the whole text, so its text would be wrong")


def _logits(model: Any, token_ids: list[int]) -> Tensor:
    """Logits [T, V] of one forward pass."""
    return next(start(model, token_ids, use_cache=False, all_logits=True)).float()


def _stepwise_logits(model: Any, token_ids: list[int], *, use_cache: bool) -> Tensor:
    """Logits [T, V]: those of a prompt, then those of one token at a time."""
    steps = start(model, token_ids[:PROMPT_TOKENS], use_cache=use_cache, all_logits=True)
    rows = [next(steps)] + [steps.send(token) for token in token_ids[PROMPT_TOKENS:]]
    return torch.cat(rows).float()


def _difference(logits_TV: Tensor, expected_TV: Tensor) -> float:
    """The largest difference, relative to the spread of the expected logits over the vocabulary."""
    return float((logits_TV - expected_TV).abs().max() / expected_TV.std(dim=-1).mean())


def _tolerance(model: Any) -> float:
    """How far rounding may move logits: different kernels compute one token and many."""
    dtype = model.get_input_embeddings().weight.dtype
    return 1e-2 if dtype in (torch.float32, torch.float64) else 0.2


def _token_ids(config: Any, vocab_size: int) -> list[int]:
    """Return different token ids, none of which the config names: such tokens may stand for images or padding."""
    configs = (config, config.get_text_config())
    named = {value for part in configs for value in part.to_dict().values() if isinstance(value, int)}
    generator = torch.Generator().manual_seed(0)
    order: list[int] = torch.randperm(vocab_size, generator=generator).tolist()
    plain = [token for token in order if token not in named]
    return (plain * TOKENS or order * TOKENS)[:TOKENS]
