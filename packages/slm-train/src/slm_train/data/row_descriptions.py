"""Lines about a tokenised corpus and its rows."""

from __future__ import annotations

from collections.abc import Iterator

from slm_data import RowDataset, TokenStore
from slm_train.data.wording import count

_NOUNS = {"messages": "conversation", "prompt_completion": "pair", "instruction": "instruction"}


def describe_store(store: TokenStore, data_format: str) -> Iterator[str]:
    """Yield a line with the size of a corpus, and one for each thing in it that a user may not expect."""
    counts, noun = store.counts, _NOUNS.get(data_format, "document")
    origin = "read from the token cache" if store.reused else "tokenised"
    scored = "" if counts.scored_tokens is None else f", {counts.scored_tokens:,} of them with a loss (--loss_on)"
    size = f"{count(counts.documents, noun)}, {count(counts.tokens, 'token')}{scored}"
    yield f"{store.name}: {size}, {counts.text_bytes:,} bytes ({origin})"
    if counts.unscored_documents:
        yield f"{store.name}: {count(counts.unscored_documents, noun)} without an answer to learn from left out"
    if counts.special_texts:
        yield (
            f"{store.name}: {count(counts.special_texts, 'special token')} written in the texts, read as plain text "
            "(--parse_special_tokens)"
        )


def describe_rows(rows: RowDataset) -> str:
    """Return a line with the number of rows, their fill, and what was cut or left out."""
    plan = rows.plan
    fill = "padded to the longest of a batch" if plan.packing == "none" else f"{plan.utilisation:.1%} full"
    return (
        f"{rows.store.name}: {count(len(plan), 'row')} of at most {plan.block_size} tokens ({plan.packing}, {fill}), "
        f"{_describe_losses(rows)}"
    )


def _describe_losses(rows: RowDataset) -> str:
    plan = rows.plan
    dropped = int(rows.store.lengths.sum()) - plan.tokens
    parts = [f"{count(plan.split_documents, 'document')} cut to fit" if plan.split_documents else "no document cut"]
    if plan.long_documents:
        parts = [f"{plan.long_documents:,} longer than a row (--long_rows)"]
    if plan.unscored_rows:
        parts.append(f"{plan.unscored_rows:,} without a loss left out")
    return ", ".join([*parts, f"{count(dropped, 'token')} dropped"])
