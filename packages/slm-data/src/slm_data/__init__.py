"""Texts by name or file, as token rows ready for training."""

from slm_data.bpe import train_tokenizer
from slm_data.budget import BudgetPlan, TokenBudget, plan_budget
from slm_data.errors import DataError
from slm_data.options import SourceOptions
from slm_data.packing import PACKINGS, Packing, RowPlan, as_packing, plan_rows
from slm_data.rows import IGNORE, Row, RowCollator, RowDataset, RowSampler
from slm_data.sample.pretrained import sample_base
from slm_data.sources import Corpus, Documents, load_corpus
from slm_data.streaming import RowStream
from slm_data.tokens import TokenCounts, TokenStore, tokenize

__version__ = "0.2.1"

__all__ = [
    "IGNORE",
    "PACKINGS",
    "BudgetPlan",
    "Corpus",
    "DataError",
    "Documents",
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
    "tokenize",
    "train_tokenizer",
]
