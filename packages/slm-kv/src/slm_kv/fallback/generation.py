"""transformers' own generation, one token at a time: a generator that yields logits and is sent tokens.

``generate`` prepares the inputs and the cache as the model needs them (keys and values, the states of Mamba or RWKV, or
both) and hands them to ``custom_generate``. Given a generator function, it returns before the first forward pass, and
whoever holds the generator decides when the next token is computed. Closing it frees the cache.

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

TokenSteps = Generator[Tensor, int]


def start(model: Any, token_ids: Sequence[int], *, use_cache: bool = True, all_logits: bool = False) -> TokenSteps:
    """Return a generator that yields logits, the last row for the next token, and is sent the token that follows.

    Nothing is computed before the first ``next``. Each step must run in ``torch.inference_mode``.

    Args:
        model: A model of transformers, without a PeftModel wrapper.
        token_ids: The prompt.
        use_cache: False computes the whole text for each token.
        all_logits: Start with the logits of the whole prompt [T, V], not of its last token only.
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
        input_ids = torch.cat([input_ids, input_ids.new_tensor([[token]])], dim=-1)
        length = 1 if options["use_cache"] else None
