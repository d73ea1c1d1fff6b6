"""Token ids of the texts against the rows of the model's embeddings."""

from __future__ import annotations

from slm_data import TokenStore
from slm_train.arguments import Arguments
from slm_train.data.rows import Tokens
from slm_train.model.base_model import BaseModel, check_vocabulary, configured_rows


def check_row_tokens(arguments: Arguments, base: BaseModel, tokens: Tokens) -> None:
    """Raise TrainError if the texts contain a token without a row in the embeddings.

    A tokenizer may have special tokens beyond the embeddings that occur only in a text that spells them out
    (``find_base_model``). What a stream contains is not known, so there they are refused.
    """
    if arguments.model.from_scratch or arguments.model.resize_embeddings:
        return
    available = configured_rows(base)
    if base.vocabulary <= available:
        return
    splits = (tokens.train, tokens.validation)
    if any(not isinstance(split, TokenStore) or split.tokens.max() >= available for split in splits):
        check_vocabulary(base, available, any_token=True)
