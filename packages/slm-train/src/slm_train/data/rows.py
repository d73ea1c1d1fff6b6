"""Tokenising a corpus and laying it out in rows, with the lines that are printed about it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from slm_data import (
    Corpus,
    Documents,
    EncodingOptions,
    LongRows,
    RowDataset,
    RowPlan,
    RowStream,
    TokenStore,
    as_long_rows,
    as_loss_on,
    as_packing,
    choose_template,
    plan_rows,
    tokenize,
)
from slm_train.arguments import Arguments
from slm_train.data.evaluated_rows import choose_evaluated
from slm_train.data.row_descriptions import describe_rows, describe_store
from slm_train.errors import TrainError
from slm_train.model.base_model import BaseModel
from slm_train.options.rows import DEFAULT_BLOCK_SIZE, RowOptions

PrintLine = Callable[[str], None]


@dataclass(frozen=True)
class Tokens:
    """Both splits before they are laid out in rows. ``train`` is not tokenised in advance if it is streamed."""

    train: TokenStore | Documents
    validation: TokenStore
    block_size: int
    data_format: str = "text"


@dataclass(frozen=True)
class Rows:
    """The rows for training, those of the validation split, and the part of them that is evaluated."""

    train: RowDataset | RowStream
    validation: RowDataset
    evaluated: RowDataset
    block_size: int

    @property
    def fingerprint(self) -> str:
        """A hash that changes with the texts, the tokenizer and the packing; a resumed run needs the same."""
        parts: tuple[object, ...]
        if isinstance(self.train, RowStream):
            # A stream has no plan: its rows follow from the source and these settings.
            train = self.train
            parts = (train.fingerprint, train.packing, train.block_size, train.fill, train.long_rows)
        else:
            plan = self.train.plan
            parts = (
                self.train.store.fingerprint,
                plan.packing,
                plan.block_size,
                len(plan),
                plan.tokens,
                plan.predicted_tokens,
            )
        return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def make_rows(arguments: Arguments, corpus: Corpus, base: BaseModel, print_line: PrintLine) -> Rows:
    """Tokenise both splits and lay them out in rows; arguments and errors are those of ``tokenize_corpus``.

    The packing is that of the options, which is not verified.
    """
    return lay_out_rows(arguments, tokenize_corpus(arguments, corpus, base, print_line), base, print_line)


def tokenize_corpus(arguments: Arguments, corpus: Corpus, base: BaseModel, print_line: PrintLine) -> Tokens:
    """Tokenise both splits.

    Args:
        arguments: The options of the run.
        corpus: Training and validation texts.
        base: The model, whose tokenizer and context length are used.
        print_line: Prints a line.

    Raises:
        TrainError: For a block longer than the model's context, or a stream without ``--max_steps``.
    """
    block_size = _block_size(arguments.rows, base)
    train: TokenStore | Documents = corpus.train
    if not arguments.source.streaming:
        train = _tokenize(corpus.train, arguments, base, print_line)
    elif arguments.training.max_steps <= 0:
        raise TrainError("--streaming does not know the length of the corpus; give --max_steps")
    return Tokens(
        train, _tokenize(corpus.validation, arguments, base, print_line), block_size, corpus.train.data_format
    )


def lay_out_rows(arguments: Arguments, tokens: Tokens, base: BaseModel, print_line: PrintLine) -> Rows:
    """Lay out both splits in rows, with the packing of the options."""
    options, seed = _for_format(arguments.rows, tokens.data_format), arguments.training.seed
    train: RowDataset | RowStream
    if isinstance(tokens.train, TokenStore):
        train = _stored_rows(options, tokens.train, tokens.block_size, seed, print_line)
    else:
        packing = as_packing(options.packing)
        train = RowStream(
            tokens.train,
            base.tokenizer,
            tokens.block_size,
            packing,
            options.packing_fill,
            seed,
            encoding_options(arguments, base),
            _long_rows(options),
        )
        print_line(f"{tokens.train.name}: streamed, packed window by window ({packing}, block {tokens.block_size})")
    validation = _stored_rows(options, tokens.validation, tokens.block_size, seed, print_line)
    evaluated = choose_evaluated(validation, options.max_eval_tokens, print_line)
    return Rows(train, validation, evaluated, tokens.block_size)


def encoding_options(arguments: Arguments, base: BaseModel) -> EncodingOptions:
    """Return how examples become tokens. The chat template is stored on the tokenizer, see ``chat_format``."""
    options = arguments.rows
    template = choose_template(options.chat_template, base.tokenizer)
    return EncodingOptions(template, as_loss_on(options.loss_on), options.parse_special_tokens)


def _for_format(options: RowOptions, data_format: str) -> RowOptions:
    """Return the options with the defaults that depend on the format of the data.

    A part of a conversation without its beginning would teach something else, so conversations are neither split nor
    cut to fill gaps.
    """
    if data_format == "text":
        return options
    long_rows = options.long_rows or ("split" if options.packing == "concat" else "cut")
    return replace(options, long_rows=long_rows, packing_fill=0.0)


def _long_rows(options: RowOptions) -> LongRows:
    return as_long_rows(options.long_rows or "split")


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
        "long_documents": plan.long_documents,
        "unscored_rows": plan.unscored_rows,
        "predicted_tokens": plan.predicted_tokens,
        "fingerprint": store.fingerprint,
    }


def summarize_validation(rows: Rows) -> dict[str, Any]:
    """Return the figures of the validation rows for run.json, with those of the part that is evaluated."""
    evaluated = rows.evaluated.plan
    return summarize_rows(rows.validation) | {"evaluated_rows": len(evaluated), "evaluated_tokens": evaluated.tokens}


def _stored_rows(
    options: RowOptions, store: TokenStore, block_size: int, seed: int, print_line: PrintLine
) -> RowDataset:
    plan = plan_rows(
        store.lengths,
        block_size,
        as_packing(options.packing),
        fill=options.packing_fill,
        seed=seed,
        scored=store.scored,
        long_rows=_long_rows(options),
    )
    _check_rows(plan, store.name)
    rows = RowDataset(store, plan)
    print_line(describe_rows(rows))
    return rows


def _check_rows(plan: RowPlan, name: str) -> None:
    """Raise TrainError if no row is left."""
    if len(plan) or not (plan.long_documents or plan.unscored_rows):
        return
    if plan.long_documents and not plan.unscored_rows:
        reason = f"all {plan.long_documents:,} examples are longer than --block_size {plan.block_size}"
    else:
        reason = f"no row of at most {plan.block_size} tokens contains a token with a loss"
    raise TrainError(f"{name}: {reason}; use a larger --block_size, or --long_rows split")


def _tokenize(documents: Documents, arguments: Arguments, base: BaseModel, print_line: PrintLine) -> TokenStore:
    options = arguments.rows
    cache = Path(options.token_cache).expanduser() if options.token_cache else None
    encoding = encoding_options(arguments, base)
    store = tokenize(documents, base.tokenizer, encoding, cache_dir=cache, workers=options.preprocessing_num_workers)
    for line in describe_store(store, documents.data_format):
        print_line(line)
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
