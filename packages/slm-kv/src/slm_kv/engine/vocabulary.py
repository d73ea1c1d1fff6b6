"""What a model and its tokenizer call tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from slm_kv.errors import KVError

Prompt = str | Sequence[int]


class Vocabulary:
    """``size`` token ids; ``ends`` end a text: the model's own, else the tokenizer's."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> None:
        self.tokenizer = tokenizer
        self.size: int = cast(nn.Embedding, model.get_input_embeddings()).num_embeddings
        self.ends = _ends(model, tokenizer)

    def ids(self, prompt: Prompt) -> list[int]:
        """``prompt`` as token ids. Raises KVError for an id outside, and for a text where there is no tokenizer."""
        if isinstance(prompt, str):
            if self.tokenizer is None:
                raise KVError("text was given and the engine has no tokenizer; give token ids, or a tokenizer")
            return list(self.tokenizer(prompt, verbose=False)["input_ids"])
        for token in prompt:
            if not isinstance(token, int) or not 0 <= token < self.size:
                raise KVError(f"token id {token!r} is outside the vocabulary of {self.size}")
        return list(prompt)


def _ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> frozenset[int]:
    settings: Any = model.generation_config
    ends = settings.eos_token_id if settings and settings.eos_token_id is not None else None
    if ends is None:
        ends = tokenizer.eos_token_id if tokenizer else None
    return frozenset([ends] if isinstance(ends, int) else ends or [])
