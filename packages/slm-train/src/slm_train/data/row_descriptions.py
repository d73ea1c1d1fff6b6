"""Lines about a tokenised corpus and its rows."""

from __future__ import annotations

from collections.abc import Iterator

from slm_data import RowDataset, TokenStore

_NOUNS = {"messages": "conversations", "prompt_completion": "pairs", "instruction": "instructions"}


def describe_store(store: TokenStore, data_format: str) -> Iterator[str]:
    """Yield a line with the size of a corpus, and one for each thing in it that a user may not expect."""
    counts, noun = store.counts, _NOUNS.get(data_format, "documents")
    origin = "read from the token cache" if store.reused else "tokenised"
    scored = "" if counts.scored_tokens is None else f", {counts.scored_tokens:,} of them with a loss (--loss_on)"
    size = f"{counts.documents:,} {noun}, {counts.tokens:,} tokens{scored}"
    yield f"{store.name}: {size}, {counts.text_bytes:,} bytes ({origin})"
    if counts.unscored_documents:
        yield f"{store.name}: {counts.unscored_documents:,} {noun} without an answer to learn from were left out"
    if counts.special_texts:
        yield (
            f"{store.name}: {counts.special_texts:,} special tokens written in the texts are read as plain text "
            "(--parse_special_tokens reads them as tokens)"
        )


def describe_rows(rows: RowDataset) -> str:
    """Return a line with the number of rows, their fill, and what was cut or left out."""
    plan = rows.plan
    fill = "padded to the longest of a batch" if plan.packing == "none" else f"{plan.utilisation:.1%} full"
    return (
        f"{rows.store.name}: {len(plan):,} rows of at most {plan.block_size} tokens ({plan.packing}, {fill}), "
        f"{_describe_losses(rows)}"
    )


def _describe_losses(rows: RowDataset) -> str:
    plan = rows.plan
    dropped = int(rows.store.lengths.sum()) - plan.tokens
    parts = [f"{plan.split_documents:,} documents cut to fit" if plan.split_documents else "no document cut"]
    if plan.long_documents:
        parts = [f"{plan.long_documents:,} longer than a row (--long_rows)"]
    if plan.unscored_rows:
        parts.append(f"{plan.unscored_rows:,} without a loss left out")
    return ", ".join([*parts, f"{dropped:,} tokens dropped"])
