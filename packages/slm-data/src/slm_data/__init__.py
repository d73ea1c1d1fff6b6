"""Datasets by name or file, as token rows for training."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slm_data.errors import DataError
    from slm_data.examples.data_formats import DATA_FORMATS
    from slm_data.examples.loss_on import LOSS_ON, as_loss_on
    from slm_data.examples.templates import (
        PLAIN_STOPS,
        PLAIN_TEMPLATE,
        ChatTemplate,
        choose_template,
        end_of_turn,
        is_plain_template,
        missing_tokens,
        saved_template,
    )
    from slm_data.examples.types import Conversation, Example, Message, Pair
    from slm_data.rows.array_types import Ints
    from slm_data.rows.budget import BudgetPlan, TokenBudget
    from slm_data.rows.budget_planning import plan_budget
    from slm_data.rows.collation import IGNORE_INDEX, RowCollator
    from slm_data.rows.dataset import Row, RowDataset
    from slm_data.rows.long_rows import LONG_ROWS, LongRows, as_long_rows
    from slm_data.rows.packing import RowPlan, plan_rows, select_rows
    from slm_data.rows.packing_names import PACKINGS, Packing, as_packing
    from slm_data.rows.predicted_tokens import Mask
    from slm_data.rows.sampler import RowSampler
    from slm_data.rows.streaming import RowStream
    from slm_data.sample.built_in import (
        SAMPLE_TRAIN_SEED,
        harbour_stories,
        harbour_story,
        sample_stories,
        sample_story,
    )
    from slm_data.sample.pretrained import sample_base
    from slm_data.sources.corpus import load_corpus
    from slm_data.sources.documents import Corpus, Documents
    from slm_data.sources.hub.cache import find_missing_dataset
    from slm_data.sources.hub.dataset_names import dataset_hub_id
    from slm_data.sources.hub.errors import HUB_ERROR_REASONS
    from slm_data.sources.hub.split_texts import split_texts
    from slm_data.sources.options import SourceOptions
    from slm_data.tokens.bpe import train_tokenizer
    from slm_data.tokens.literal import LiteralEncoder
    from slm_data.tokens.settings import EncodingOptions
    from slm_data.tokens.split_stores import tokenize_splits
    from slm_data.tokens.store import TokenCounts, TokenStore, token_cache_dir, tokenize

__version__ = "0.7.0"

__all__ = [
    "DATA_FORMATS",
    "HUB_ERROR_REASONS",
    "IGNORE_INDEX",
    "LONG_ROWS",
    "LOSS_ON",
    "PACKINGS",
    "PLAIN_STOPS",
    "PLAIN_TEMPLATE",
    "SAMPLE_TRAIN_SEED",
    "BudgetPlan",
    "ChatTemplate",
    "Conversation",
    "Corpus",
    "DataError",
    "Documents",
    "EncodingOptions",
    "Example",
    "Ints",
    "LiteralEncoder",
    "LongRows",
    "Mask",
    "Message",
    "Packing",
    "Pair",
    "Row",
    "RowCollator",
    "RowDataset",
    "RowPlan",
    "RowSampler",
    "RowStream",
    "SourceOptions",
    "TokenBudget",
    "TokenCounts",
    "TokenStore",
    "as_long_rows",
    "as_loss_on",
    "as_packing",
    "choose_template",
    "dataset_hub_id",
    "end_of_turn",
    "find_missing_dataset",
    "harbour_stories",
    "harbour_story",
    "is_plain_template",
    "load_corpus",
    "missing_tokens",
    "plan_budget",
    "plan_rows",
    "sample_base",
    "sample_stories",
    "sample_story",
    "saved_template",
    "select_rows",
    "split_texts",
    "token_cache_dir",
    "tokenize",
    "tokenize_splits",
    "train_tokenizer",
]

# Imported on first use: `slm-train --help` reads SourceOptions and must not wait for torch or pyarrow.
_EXPORTS = {
    "Mask": "rows.predicted_tokens:Mask",
    "select_rows": "rows.packing:select_rows",
    "split_texts": "sources.hub.split_texts:split_texts",
    "EncodingOptions": "tokens.settings:EncodingOptions",
    "LiteralEncoder": "tokens.literal:LiteralEncoder",
    "Example": "examples.types:Example",
    "Pair": "examples.types:Pair",
    "Message": "examples.types:Message",
    "Conversation": "examples.types:Conversation",
    "as_long_rows": "rows.long_rows:as_long_rows",
    "LongRows": "rows.long_rows:LongRows",
    "LONG_ROWS": "rows.long_rows:LONG_ROWS",
    "as_loss_on": "examples.loss_on:as_loss_on",
    "LOSS_ON": "examples.loss_on:LOSS_ON",
    "DATA_FORMATS": "examples.data_formats:DATA_FORMATS",
    "BudgetPlan": "rows.budget:BudgetPlan",
    "ChatTemplate": "examples.templates:ChatTemplate",
    "Corpus": "sources.documents:Corpus",
    "DataError": "errors:DataError",
    "Documents": "sources.documents:Documents",
    "HUB_ERROR_REASONS": "sources.hub.errors:HUB_ERROR_REASONS",
    "IGNORE_INDEX": "rows.collation:IGNORE_INDEX",
    "Ints": "rows.array_types:Ints",
    "PACKINGS": "rows.packing_names:PACKINGS",
    "PLAIN_STOPS": "examples.templates:PLAIN_STOPS",
    "PLAIN_TEMPLATE": "examples.templates:PLAIN_TEMPLATE",
    "Packing": "rows.packing_names:Packing",
    "Row": "rows.dataset:Row",
    "RowCollator": "rows.collation:RowCollator",
    "RowDataset": "rows.dataset:RowDataset",
    "RowPlan": "rows.packing:RowPlan",
    "RowSampler": "rows.sampler:RowSampler",
    "RowStream": "rows.streaming:RowStream",
    "SAMPLE_TRAIN_SEED": "sample.built_in:SAMPLE_TRAIN_SEED",
    "SourceOptions": "sources.options:SourceOptions",
    "TokenBudget": "rows.budget:TokenBudget",
    "TokenCounts": "tokens.store:TokenCounts",
    "TokenStore": "tokens.store:TokenStore",
    "as_packing": "rows.packing_names:as_packing",
    "choose_template": "examples.templates:choose_template",
    "end_of_turn": "examples.templates:end_of_turn",
    "is_plain_template": "examples.templates:is_plain_template",
    "missing_tokens": "examples.templates:missing_tokens",
    "saved_template": "examples.templates:saved_template",
    "harbour_stories": "sample.built_in:harbour_stories",
    "harbour_story": "sample.built_in:harbour_story",
    "find_missing_dataset": "sources.hub.cache:find_missing_dataset",
    "dataset_hub_id": "sources.hub.dataset_names:dataset_hub_id",
    "load_corpus": "sources.corpus:load_corpus",
    "plan_budget": "rows.budget_planning:plan_budget",
    "plan_rows": "rows.packing:plan_rows",
    "sample_base": "sample.pretrained:sample_base",
    "sample_stories": "sample.built_in:sample_stories",
    "sample_story": "sample.built_in:sample_story",
    "token_cache_dir": "tokens.store:token_cache_dir",
    "tokenize": "tokens.store:tokenize",
    "tokenize_splits": "tokens.split_stores:tokenize_splits",
    "train_tokenizer": "tokens.bpe:train_tokenizer",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _EXPORTS[name].partition(":")
    return getattr(import_module(f"{__name__}.{module}"), attribute)
