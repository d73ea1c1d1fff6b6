"""From flags to rows: corpus, token stores, row plans, and what is said about them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slm_data import (
    BudgetPlan,
    Corpus,
    Documents,
    RowDataset,
    RowStream,
    TokenBudget,
    TokenStore,
    as_packing,
    plan_budget,
    plan_rows,
    tokenize,
)
from slm_train.arguments import DEFAULT_BLOCK, Arguments, RowOptions
from slm_train.errors import UserError
from slm_train.modes import Base

Say = Callable[[str], None]


@dataclass(frozen=True)
class Rows:
    """What is trained on and evaluated on."""

    train: RowDataset | RowStream
    validation: RowDataset
    block_size: int

    @property
    def fingerprint(self) -> str:
        """Changes with the texts, the tokenizer, and the way rows are made: a resumed run needs the same."""
        parts: tuple[object, ...]
        if isinstance(self.train, RowStream):
            parts = (self.train.fingerprint, self.train.packing, self.train.block_size, self.train.fill)
        else:
            plan = self.train.plan
            parts = (self.train.store.fingerprint, plan.packing, plan.block_size, len(plan), plan.tokens)
        return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def summary(rows: RowDataset | RowStream) -> dict[str, Any]:
    """For run.json."""
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


def make_rows(arguments: Arguments, corpus: Corpus, base: Base, say: Say) -> Rows:
    """Tokenise and lay out both splits. Raises UserError for a block longer than the model's context."""
    block = _block_size(arguments.rows, base)
    train: RowDataset | RowStream
    if arguments.source.streaming:
        train = _stream(arguments, corpus.train, base, block)
        say(f"{corpus.train.name}: streamed, laid out in windows as it comes ({train.packing}, block {block})")
    else:
        train = _stored(arguments, corpus.train, base, block, say)
    return Rows(train, _stored(arguments, corpus.validation, base, block, say), block)


def make_plan(arguments: Arguments, base: Base, rows: Rows, say: Say) -> BudgetPlan | None:
    """The whole run of the token-budget loop; None for the Trainer. Raises DataError, and UserError for rows that
    rounding makes longer than the model's context."""
    options, training = arguments.budget, arguments.training
    if options is None:
        return None
    assert isinstance(rows.train, RowDataset)
    multiple = options.multiple(training.torch_compile)
    longest = -(-int(rows.train.plan.row_lengths.max()) // multiple) * multiple
    if base.context and longest > base.context:
        raise UserError(
            f"--pad_to_multiple_of {multiple} makes rows of {longest} tokens, {base.name or 'the model'} reads "
            f"{base.context}; give a --block_size that it divides"
        )
    budget = TokenBudget(
        options.target_tokens_per_step, options.max_tokens_per_micro_batch, arguments.rows_of_micro_batch
    )
    plan = plan_budget(
        rows.train.plan,
        budget,
        seed=training.seed,
        epochs=training.num_train_epochs,
        max_steps=int(training.max_steps),
        ranks=training.world_size,
    )
    say(describe_plan(plan))
    return plan


def describe_plan(plan: BudgetPlan) -> str:
    """Steps, what they hold, and how well micro-batches are filled."""
    mean, most = plan.overshoot
    short = plan.tokens[plan.tokens < plan.budget.tokens]
    tails = f", {len(short):,} at the end of an epoch with less" if len(short) else ""
    return (
        f"plan: {int(plan.epoch[-1]) + 1:,} epochs, {len(plan):,} steps of {plan.budget.tokens:,} predicted tokens "
        f"(over by {mean:,.0f}, at most {most:,}{tails}), {len(plan.micro_first) - 1:,} micro-batches, "
        f"{plan.utilisation:.1%} of their places tokens"
    )


def _stream(arguments: Arguments, documents: Documents, base: Base, block: int) -> RowStream:
    options, training = arguments.rows, arguments.training
    if training.max_steps <= 0:
        raise UserError("--streaming does not know how long the corpus is; give --max_steps")
    packing = as_packing(options.packing)
    return RowStream(documents, base.tokenizer, block, packing, options.packing_fill, training.seed)


def _stored(arguments: Arguments, documents: Documents, base: Base, block: int, say: Say) -> RowDataset:
    options = arguments.rows
    store = _tokenize(documents, base, options, say)
    packing = as_packing(options.packing)
    plan = plan_rows(store.lengths, block, packing, fill=options.packing_fill, seed=arguments.training.seed)
    rows = RowDataset(store, plan)
    say(describe(rows))
    return rows


def _block_size(options: RowOptions, base: Base) -> int:
    context = base.context
    if options.block_size is None:
        return min(DEFAULT_BLOCK, context or DEFAULT_BLOCK)
    if context and options.block_size > context:
        raise UserError(
            f"--block_size {options.block_size} is longer than the {context} tokens that {base.name or 'the model'} "
            f"can read; use {context} or less"
        )
    return options.block_size


def _tokenize(documents: Documents, base: Base, options: RowOptions, say: Say) -> TokenStore:
    cache = Path(options.token_cache).expanduser() if options.token_cache else None
    store = tokenize(documents, base.tokenizer, cache_dir=cache, workers=options.preprocessing_num_workers)
    how = "tokenised before, read from the cache" if store.reused else "tokenised"
    counts = store.counts
    say(f"{store.name}: {counts.documents:,} documents, {counts.tokens:,} tokens, {counts.text_bytes:,} bytes ({how})")
    return store


def describe(rows: RowDataset) -> str:
    """How the documents lie in rows, and what was cut; nothing is ever dropped or truncated."""
    plan = rows.plan
    full = "padded to the longest of a batch" if plan.packing == "none" else f"{plan.utilisation:.1%} full"
    cut = f"{plan.split_documents:,} documents cut to fit" if plan.split_documents else "no document cut"
    return (
        f"{rows.store.name}: {len(plan):,} rows of at most {plan.block_size} tokens ({plan.packing}, {full}), "
        f"{cut}, 0 tokens dropped"
    )
