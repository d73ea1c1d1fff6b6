"""Text samples of a model, before and after training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def continue_prompts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]
) -> list[dict[str, str]]:
    """Return each prompt and its continuation, which includes the prompt."""
    return [{"prompt": prompt, "text": continue_prompt(model, tokenizer, prompt)} for prompt in prompts]


@torch.no_grad()
def continue_prompt(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    max_new_tokens: int = 60,
    seed: int = 0,
) -> str:
    """Return ``prompt`` with a sampled continuation. The random state of training is not affected."""
    was_training = model.training
    model.eval()
    inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
    inputs.pop("token_type_ids", None)  # some tokenizers return them, but causal models do not take them
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        generate: Any = model.generate
        ids = generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=True,
            temperature=0.7,
            top_k=50,
            use_cache=True,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        )
    model.train(was_training)
    return str(tokenizer.decode(ids[0], skip_special_tokens=True))
