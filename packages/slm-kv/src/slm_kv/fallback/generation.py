"""transformers' own generation, one token at a time: a generator that yields logits and is sent tokens.

``generate`` prepares the inputs and the cache as the model needs them (keys and values, the states of Mamba or RWKV, or
both) and hands them to ``custom_generate``. Given a generator function, it returns before the first forward pass, and
whoever holds the generator decides when the next token is computed. Closing it frees the cache.

Shapes: V vocabulary, T tokens of the prompt.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Generator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

TokenSteps = Generator[Tensor, int]


def start(model: Any, token_ids: Sequence[int], *, use_cache: bool = True, all_logits: bool = False) -> TokenSteps:
    """Return a generator that yields the logits [1, V] of the next token and is sent the token that follows.

    Nothing is computed before the first ``next``. Each step must run in ``torch.inference_mode``.

    Args:
        model: A model of transformers, without a PeftModel wrapper.
        token_ids: The prompt.
        use_cache: False computes the whole text for each token.
        all_logits: Yield those of the whole prompt [T, V] first.
    """
    embedding_weight = model.get_input_embeddings().weight
    options: dict[str, Any] = {}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        options["logits_to_keep"] = 0 if all_logits else 1  # 0 keeps all
    steps: TokenSteps = _with_empty_generation_config(model).generate(
        torch.tensor([list(token_ids)], device=embedding_weight.device),
        generation_config=GenerationConfig(max_new_tokens=1, use_cache=use_cache),
        custom_generate=_steps,
        **options,
    )
    return steps


def _with_empty_generation_config(model: Any) -> Any:
    """A shallow copy of ``model`` that shares all layers, but not the generation config.

    ``generate`` fills unset values from the model's config, whose penalties, beams or static cache nobody asked for.
    """
    view = copy.copy(model)
    view.generation_config = GenerationConfig()
    return view


def _steps(model: Any, input_ids: Tensor, *, generation_config: GenerationConfig, **options: Any) -> TokenSteps:
    """Compute one forward pass for each token, as ``GenerationMixin._sample`` does."""
    for unused in ("logits_processor", "stopping_criteria", "synced_gpus", "streamer"):
        options.pop(unused, None)
    use_cache, first = options["use_cache"], True
    while True:
        inputs = _prepare(model, input_ids, first, 1 if use_cache and not first else None, options)
        outputs = model(**inputs, return_dict=True)
        options = model._update_model_kwargs_for_generation(outputs, options)
        logits = outputs.logits[0]
        del outputs  # holds hidden states of the whole prompt
        token = yield logits if first else logits[-1:]
        if "logits_to_keep" in options:
            options["logits_to_keep"] = 1
        input_ids, first = torch.cat([input_ids, input_ids.new_tensor([[token]])], dim=-1), False


def _prepare(model: Any, input_ids: Tensor, first: bool, length: int | None, options: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs of the next forward pass.

    Phi-3 drops its cache where the text becomes longer than the original context (longrope), but in transformers 5.19
    it still gets the last token only; it has to get the whole text again.
    """
    inputs: dict[str, Any] = model.prepare_inputs_for_generation(
        input_ids, next_sequence_length=length, is_first_iteration=first, **options
    )
    if length and options.get("past_key_values") is not None and inputs.get("past_key_values") is None:
        return _prepare(model, input_ids, first, None, options)
    return inputs
