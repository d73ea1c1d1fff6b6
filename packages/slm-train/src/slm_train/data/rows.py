"""Tokenising a corpus and laying it out in rows, with the lines that are printed about it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slm_data import (
    Corpus,
    Documents,
    RowDataset,
    RowStream,
    TokenStore,
    as_packing,
    plan_rows,
    tokenize,
)
from slm_train.arguments import Arguments
from slm_train.errors import TrainError
from slm_train.model.base_model import BaseModel
from slm_train.options import DEFAULT_BLOCK_SIZE, RowOptions

PrintLine = Callable[[str], None]


@dataclass(frozen=True)
class Rows:
    """The rows for training and for evaluation."""

    train: RowDataset | RowStream
    validation: RowDataset
    block_size: int

    @property
    def fingerprint(self) -> str:
        """A hash that changes with the texts, the tokenizer and the packing; a resumed run needs the same."""
        parts: tuple[object, ...]
        if isinstance(self.train, RowStream):
            # A stream has no plan: its rows follow from the source and these settings.
            parts = (self.train.fingerprint, self.train.packing, self.train.block_size, self.train.fill)
        else:
            plan = self.train.plan
            parts = (self.train.store.fingerprint, plan.packing, plan.block_size, len(plan), plan.tokens)
        return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def make_rows(arguments: Arguments, corpus: Corpus, base: BaseModel, print_line: PrintLine) -> Rows:
    """Tokenise both splits and lay them out in rows.

    Args:
        arguments: The options of the run.
        corpus: Training and validation texts.
        base: The model, whose tokenizer and context length are used.
        print_line: Prints a line.

    Raises:
        TrainError: For a block longer than the model's context, or a stream without ``--max_steps``.
    """
    block_size = _block_size(arguments.rows, base)
    train: RowDataset | RowStream
    if arguments.source.streaming:
        train = _streamed_rows(arguments, corpus.train, base, block_size)
        print_line(f"{corpus.train.name}: streamed, packed window by window ({train.packing}, block {block_size})")
    else:
        train = _stored_rows(arguments, corpus.train, base, block_size, print_line)
    return Rows(train, _stored_rows(arguments, corpus.validation, base, block_size, print_line), block_size)


def optimizer_steps(arguments: Arguments, rows: Rows) -> int:
    """Return the number of optimizer steps of a run of the Trainer, as the Trainer counts them."""
    training = arguments.training
    if training.max_steps > 0 or not isinstance(rows.train, RowDataset):
        return int(training.max_steps)
    batches = math.ceil(len(rows.train) / (training.per_device_train_batch_size * training.world_size))
    steps_per_epoch = max(1, math.ceil(batches / training.gradient_accumulation_steps))
    return math.ceil(training.num_train_epochs * steps_per_epoch)


def summarize_rows(rows: RowDataset | RowStream) -> dict[str, Any]:
    """Return the figures of ``rows`` for run.json."""
    if isinstance(rows, RowStream):
        return {"streaming": True, "packing": rows.packing, "block_size": rows.block_size}
    plan, store = rows.plan, rows.store
    return {
        **asdict(store.counts),
        "rows": len(plan),
        "packing": plan.packing,
        "block_size": plan.block_size,
        "utilisation": plan.utilisation,
        "split_documents": plan.split_documents,
        "fingerprint": store.fingerprint,
    }


def describe_rows(rows: RowDataset) -> str:
    """Return a line with the number of rows, their fill, and the number of documents that were cut."""
    plan = rows.plan
    fill = "padded to the longest of a batch" if plan.packing == "none" else f"{plan.utilisation:.1%} full"
    cut = f"{plan.split_documents:,} documents cut to fit" if plan.split_documents else "no document cut"
    return (
        f"{rows.store.name}: {len(plan):,} rows of at most {plan.block_size} tokens ({plan.packing}, {fill}), "
        f"{cut}, 0 tokens dropped"
    )


def _streamed_rows(arguments: Arguments, documents: Documents, base: BaseModel, block_size: int) -> RowStream:
    options, training = arguments.rows, arguments.training
    if training.max_steps <= 0:
        raise TrainError("--streaming does not know the length of the corpus; give --max_steps")
    packing = as_packing(options.packing)
    return RowStream(documents, base.tokenizer, block_size, packing, options.packing_fill, training.seed)


def _stored_rows(
    arguments: Arguments, documents: Documents, base: BaseModel, block_size: int, print_line: PrintLine
) -> RowDataset:
    options = arguments.rows
    store = _tokenize(documents, base, options, print_line)
    packing = as_packing(options.packing)
    plan = plan_rows(store.lengths, block_size, packing, fill=options.packing_fill, seed=arguments.training.seed)
    rows = RowDataset(store, plan)
    print_line(describe_rows(rows))
    return rows


def _tokenize(documents: Documents, base: BaseModel, options: RowOptions, print_line: PrintLine) -> TokenStore:
    cache = Path(options.token_cache).expanduser() if options.token_cache else None
    store = tokenize(documents, base.tokenizer, cache_dir=cache, workers=options.preprocessing_num_workers)
    origin = "read from the token cache" if store.reused else "tokenised"
    counts = store.counts
    print_line(
        f"{store.name}: {counts.documents:,} documents, {counts.tokens:,} tokens, {counts.text_bytes:,} bytes "
        f"({origin})"
    )
    return store


def _block_size(options: RowOptions, base: BaseModel) -> int:
    context = base.context_length
    if options.block_size is None:
        return min(DEFAULT_BLOCK_SIZE, context or DEFAULT_BLOCK_SIZE)
    if context and options.block_size > context:
        raise TrainError(
            f"--block_size {options.block_size} is longer than the {context} tokens of context of "
            f"{base.name or 'the model'}; use {context} or less"
        )
    return options.block_size
