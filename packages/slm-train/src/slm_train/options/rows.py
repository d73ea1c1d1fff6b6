"""Options of how documents become rows of tokens."""

from __future__ import annotations

from dataclasses import dataclass, field

import slm_data
from slm_train.errors import TrainError

DEFAULT_BLOCK_SIZE = 256


@dataclass(frozen=True)
class RowOptions:
    """How documents become rows of tokens. Raises TrainError or DataError for values out of range."""

    block_size: int | None = field(
        default=None,
        metadata={
            "help": f"Tokens in a row. Default: {DEFAULT_BLOCK_SIZE}, or the model's context length if that is shorter."
        },
    )
    packing: str = field(
        default="best_fit",
        metadata={
            "help": "How rows are filled. best_fit: several documents in a row, without attention between them; "
            "concat: one stream, cut into blocks; none: one document per row. Default: best_fit, or none if the model "
            "does not keep packed documents apart, which is verified."
        },
    )
    packing_fill: float = field(
        default=0.95,
        metadata={
            "help": "Target fill of a best_fit row, reached by cutting documents to fit the gaps; 0 cuts only what "
            "is longer than a row."
        },
    )
    loss_on: str = field(
        default="completion",
        metadata={
            "help": "What has a loss in conversations, pairs and instructions: completion (what the assistant writes, "
            "with the token that ends its turn) or all tokens."
        },
    )
    chat_template: str | None = field(
        default=None,
        metadata={
            "help": "How conversations become text: a Jinja file, chatml or plain. Default: the tokenizer's own chat "
            "template, else plain."
        },
    )
    long_rows: str | None = field(
        default=None,
        metadata={
            "help": "What happens to documents longer than a row: split, cut or drop. Default: split for text; cut "
            "for conversations, pairs and instructions."
        },
    )
    parse_special_tokens: bool = field(
        default=False,
        metadata={
            "help": "Read special tokens that are written in the texts, such as <|endoftext|>, as those tokens; by "
            "default they are plain text."
        },
    )
    show_rows: int = field(
        default=0,
        metadata={
            "help": "Print the first N training rows as the model sees them, with the scored tokens highlighted; train "
            "nothing."
        },
    )
    max_eval_tokens: int = field(
        default=200_000,
        metadata={"help": "Evaluate on about this many tokens of the validation rows, evenly spaced; 0 for all."},
    )
    token_cache: str | None = field(
        default=None, metadata={"help": "Folder for tokenised corpora. Default: $SLM_CACHE or ~/.cache/slm."}
    )
    preprocessing_num_workers: int | None = field(
        default=None, metadata={"help": "Tokenisation processes. Default: chosen by the size of the corpus."}
    )

    def __post_init__(self) -> None:
        slm_data.as_packing(self.packing)  # by attribute: importing the name would import numpy for --help
        slm_data.as_loss_on(self.loss_on)
        if self.long_rows is not None:
            slm_data.as_long_rows(self.long_rows)
        if self.block_size is not None and self.block_size < 2:
            raise TrainError(f"--block_size {self.block_size} leaves nothing to predict; use 2 or more")
        if not 0 <= self.packing_fill <= 1:
            raise TrainError(f"--packing_fill {self.packing_fill} must be from 0 to 1")
        if self.show_rows < 0:
            raise TrainError(f"--show_rows {self.show_rows} must not be below 0; use 0 for none")
        if self.max_eval_tokens < 0:
            raise TrainError(f"--max_eval_tokens {self.max_eval_tokens} must not be below 0; use 0 for all")
