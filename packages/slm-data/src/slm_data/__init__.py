"""Texts by name or file, as token rows ready for training."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slm_data.bpe import train_tokenizer
    from slm_data.budget import BudgetPlan, TokenBudget, plan_budget
    from slm_data.errors import DataError
    from slm_data.options import SourceOptions
    from slm_data.packing import PACKINGS, Ints, Packing, RowPlan, as_packing, plan_rows
    from slm_data.rows import IGNORE as IGNORE_INDEX
    from slm_data.rows import Row, RowCollator, RowDataset, RowSampler
    from slm_data.sample.corpus import TRAIN_SEED as SAMPLE_TRAIN_SEED
    from slm_data.sample.corpus import stories as sample_stories
    from slm_data.sample.corpus import story as sample_story
    from slm_data.sample.pretrained import sample_base
    from slm_data.sources import Corpus, Documents, load_corpus
    from slm_data.streaming import RowStream
    from slm_data.tokens import TokenCounts, TokenStore, tokenize
    from slm_data.tokens import default_cache_dir as token_cache_dir

__version__ = "0.2.1"

__all__ = [
    "IGNORE_INDEX",
    "PACKINGS",
    "SAMPLE_TRAIN_SEED",
    "BudgetPlan",
    "Corpus",
    "DataError",
    "Documents",
    "Ints",
    "Packing",
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
    "as_packing",
    "load_corpus",
    "plan_budget",
    "plan_rows",
    "sample_base",
    "sample_stories",
    "sample_story",
    "token_cache_dir",
    "tokenize",
    "train_tokenizer",
]

# Imported on first use.
_EXPORTS = {
    "BudgetPlan": "budget:BudgetPlan",
    "Corpus": "sources:Corpus",
    "DataError": "errors:DataError",
    "Ints": "packing:Ints",
    "Documents": "sources:Documents",
    "IGNORE_INDEX": "rows:IGNORE",
    "PACKINGS": "packing:PACKINGS",
    "Packing": "packing:Packing",
    "Row": "rows:Row",
    "RowCollator": "rows:RowCollator",
    "RowDataset": "rows:RowDataset",
    "RowPlan": "packing:RowPlan",
    "RowSampler": "rows:RowSampler",
    "RowStream": "streaming:RowStream",
    "SAMPLE_TRAIN_SEED": "sample.corpus:TRAIN_SEED",
    "SourceOptions": "options:SourceOptions",
    "TokenBudget": "budget:TokenBudget",
    "TokenCounts": "tokens:TokenCounts",
    "TokenStore": "tokens:TokenStore",
    "as_packing": "packing:as_packing",
    "load_corpus": "sources:load_corpus",
    "plan_budget": "budget:plan_budget",
    "plan_rows": "packing:plan_rows",
    "sample_base": "sample.pretrained:sample_base",
    "sample_stories": "sample.corpus:stories",
    "sample_story": "sample.corpus:story",
    "token_cache_dir": "tokens:default_cache_dir",
    "tokenize": "tokens:tokenize",
    "train_tokenizer": "bpe:train_tokenizer",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _EXPORTS[name].partition(":")
    return getattr(import_module(f"{__name__}.{module}"), attribute)
