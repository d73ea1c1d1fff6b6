"""A tokenizer's ids against the rows of a model's embeddings, and adding rows.

An id without a row is an IndexError in the middle of a run, so it is looked for when a model is loaded. More rows than
ids are usual (padding to a multiple of 64) and are left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from slm_adapters.errors import AdapterError

_ROLES = ("bos_token_id", "eos_token_id", "unk_token_id", "sep_token_id", "pad_token_id", "cls_token_id")


@dataclass(frozen=True)
class TokenWithoutRow:
    """A token whose id is beyond the embeddings. ``largest`` is the largest id of the tokenizer."""

    token: str
    id: int
    largest: int


def embedding_rows(model: PreTrainedModel) -> int:
    """Return the number of rows of the input embeddings: ids from 0 up to it can be used."""
    embeddings: Any = model.get_input_embeddings()
    return int(embeddings.weight.shape[0])


def find_token_without_row(
    tokenizer: PreTrainedTokenizerBase, rows: int, *, any_token: bool = False
) -> TokenWithoutRow | None:
    """Return the first token that has no row among ``rows``, or None.

    Unless ``any_token``, a special token without a role and outside of the chat template does not count: it comes only
    from a text that spells it out. Gemma 3's small models have one, for images, one beyond their last row.
    """
    tokens = {index: token for token, index in tokenizer.get_vocab().items()}  # ids may have gaps
    beyond = sorted(index for index in tokens if index >= rows)
    added = tokenizer.added_tokens_decoder
    roles = {getattr(tokenizer, role, None) for role in _ROLES}
    template = str(getattr(tokenizer, "chat_template", None) or "")
    for index in beyond:
        is_special = index in added and added[index].special
        if any_token or not is_special or index in roles or tokens[index] in template:
            return TokenWithoutRow(tokens[index], index, beyond[-1])
    return None


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, source: str) -> None:
    """Raise AdapterError if the tokenizer, which comes from ``source``, has a token without a row in the embeddings."""
    rows = embedding_rows(model)
    if missing := find_token_without_row(tokenizer, rows):
        raise AdapterError(
            f"the tokenizer in {source} has the token {missing.token!r} with id {missing.id}, but the model's "
            f"embeddings have {rows} rows; give the model's own tokenizer, or train with --resize_embeddings"
        )


@torch.no_grad()
def resize_embeddings(model: PreTrainedModel, rows: int) -> int:
    """Add rows to the input and output embeddings, up to ``rows``, and return how many were added.

    Each new row is the mean of the old ones, so that no new token is likelier than an average one. Embeddings with as
    many rows or more are left alone.

    Raises:
        AdapterError: The model's embeddings cannot be resized.
    """
    old = embedding_rows(model)
    if rows <= old:
        return 0
    try:
        with torch.random.fork_rng(devices=[]):  # transformers fills the rows with random values first
            model.resize_token_embeddings(rows, mean_resizing=False)
        layers: list[Any] = [model.get_input_embeddings(), model.get_output_embeddings()]
        for layer in layers:
            _fill_with_mean(layer, old, rows)
        _check_resized(model, rows)
    # What transformers' resizing raises for embeddings of a kind that it does not know depends on the model's code.
    except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise AdapterError(
            f"the embeddings of this {type(model).__name__} cannot be resized to {rows} rows ({reason}); use a "
            "tokenizer whose ids fit"
        ) from error
    return rows - old


def _fill_with_mean(layer: nn.Module | None, old: int, rows: int) -> None:
    for name in ("weight", "bias"):
        values: Tensor | None = getattr(layer, name, None)
        if values is not None and len(values) == rows:
            values[old:] = values[:old].float().mean(0).to(values.dtype)


def _check_resized(model: PreTrainedModel, rows: int) -> None:
    """Run the model on the last id: some models have further tables with a row for each token."""
    if any(parameter.is_meta for parameter in model.parameters()):
        return
    embeddings: Any = model.get_input_embeddings()
    was_training = model.training
    with torch.random.fork_rng(devices=[]):
        logits = model.eval()(input_ids=torch.tensor([[0, rows - 1]], device=embeddings.weight.device)).logits
    model.train(was_training)
    if logits.shape[-1] < rows:
        raise ValueError(f"its output layer has {logits.shape[-1]} rows")
