"""One token at a time through transformers: generators that yield logits and are sent tokens.

Shapes: V vocabulary, T tokens of the prompt, R rows: T or 1.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Generator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from slm_kv.linear.packed_embedding import embedding_weight

TokenSteps = Generator[Tensor, int]


def start(model: Any, token_ids: Sequence[int], *, use_cache: bool = True, all_logits: bool = False) -> TokenSteps:
    """Return a generator that yields logits [R, V], the last row for the next token, and is sent the token chosen.

    Nothing is computed before the first ``next``. Each step must run in ``torch.inference_mode``. Closing the generator
    frees the cache.

    Args:
        model: A model of transformers, without a PeftModel wrapper.
        token_ids: The prompt.
        use_cache: Generate with the cache of the model's own ``generate``; False computes the whole text for each
            token, by a plain forward pass.
        all_logits: Start with the logits of the whole prompt [T, V], not of its last token only.
    """
    input_ids = torch.tensor([list(token_ids)], device=embedding_weight(model).device)
    parameters = inspect.signature(model.forward).parameters
    logits_to_keep = (0 if all_logits else 1) if "logits_to_keep" in parameters else None  # 0 keeps all
    if not use_cache:
        plain = {"use_cache": False} if "use_cache" in parameters else {}
        return _steps_without_cache(model, input_ids, logits_to_keep, plain)
    # generate prepares the cache that the model needs (keys and values, states of Mamba or RWKV, or both) and calls
    # custom_generate. As a generator function, that returns before the first forward pass.
    options = {} if logits_to_keep is None else {"logits_to_keep": logits_to_keep}
    steps: TokenSteps = _with_empty_generation_config(model).generate(
        input_ids,
        generation_config=GenerationConfig(max_new_tokens=1, use_cache=True),
        custom_generate=_steps_with_cache,
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


def _steps_without_cache(
    model: Any, input_ids: Tensor, logits_to_keep: int | None, options: dict[str, Any]
) -> TokenSteps:
    while True:
        if logits_to_keep is not None:
            options["logits_to_keep"] = logits_to_keep
        token = yield model(input_ids, **options).logits[0]
        logits_to_keep = None if logits_to_keep is None else 1
        input_ids = _append(input_ids, token)


def _steps_with_cache(
    model: Any, input_ids: Tensor, *, generation_config: GenerationConfig, **options: Any
) -> TokenSteps:
    """Compute one forward pass for each token, as ``GenerationMixin._sample`` does."""
    for unused in ("logits_processor", "stopping_criteria", "synced_gpus", "streamer"):
        options.pop(unused, None)
    logits_to_keep = options.get("logits_to_keep")
    length: int | None = None  # of the inputs; None is the whole text
    while True:
        inputs = model.prepare_inputs_for_generation(
            input_ids, next_sequence_length=length, is_first_iteration=length is None, **options
        )
        if logits_to_keep is not None:
            inputs["logits_to_keep"] = logits_to_keep  # Falcon-H1 and Zamba 2 put config.num_logits_to_keep there
        outputs = model(**inputs, return_dict=True)
        options = model._update_model_kwargs_for_generation(outputs, options)
        logits_RV = outputs.logits[0]
        del outputs  # may hold hidden states of the whole prompt
        token = yield logits_RV
        logits_to_keep = None if logits_to_keep is None else 1
        input_ids, length = _append(input_ids, token), 1


def _append(input_ids: Tensor, token: int) -> Tensor:
    return torch.cat([input_ids, input_ids.new_tensor([[token]])], dim=-1)
