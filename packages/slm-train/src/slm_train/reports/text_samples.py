"""Text samples of a model, before, during and after training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zlib import crc32

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from slm_train.model.chat_format import ChatFormat
from slm_train.sharding.whole_tensors import is_sharded


def continue_prompts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    chat: ChatFormat | None = None,
    *,
    max_new_tokens: int = 80,
) -> list[dict[str, str]]:
    """Return a sampled continuation of each prompt. The random state of training is not affected.

    Each prompt has a random seed of its own, so its text does not depend on the other prompts.

    Args:
        model: Its training mode is restored afterwards.
        tokenizer: The tokenizer of the model.
        prompts: Texts of one token or more, shorter than the model's context. In a chat they are questions.
        chat: How questions are asked.
        max_new_tokens: Upper bound on new tokens; the model's context is another.

    Returns:
        For each prompt a dict of ``prompt`` and ``text``; the text begins with the prompt. An answer is a paragraph of
        its own.
    """
    was_training = model.training
    model.eval()
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        samples = [
            {"prompt": prompt, "text": prompt + _continuation(model, tokenizer, prompt, chat, max_new_tokens)}
            for prompt in prompts
        ]
    model.train(was_training)
    return samples


def _continuation(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    chat: ChatFormat | None,
    max_new_tokens: int,
) -> str:
    if chat is None:
        return _generate(model, tokenizer, list(tokenizer(prompt)["input_ids"]), crc32(prompt.encode()), max_new_tokens)
    ids = chat.prompt_ids(tokenizer, prompt)
    return f"\n\n{chat.answer(_generate(model, tokenizer, ids, crc32(prompt.encode()), max_new_tokens))}"


@torch.no_grad()
def _generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt_ids: list[int], seed: int, max_new_tokens: int
) -> str:
    input_ids = torch.tensor([prompt_ids], device=model.device)
    length = len(prompt_ids)
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or length + max_new_tokens
    torch.manual_seed(seed)
    generate: Any = model.generate
    ids = generate(
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        max_new_tokens=max(1, min(max_new_tokens, context - length)),
        do_sample=True,
        temperature=0.7,
        top_k=50,
        use_cache=True,
        synced_gpus=is_sharded(model),  # each process needs the others for its next token
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
    )[0]
    # Decoded together, because the text of a token can depend on the one before it, such as the space between them.
    whole, start, end = (
        str(tokenizer.decode(part, skip_special_tokens=True)) for part in (ids, ids[:length], ids[length:])
    )
    return whole[len(start) :] if whole.startswith(start) else end
