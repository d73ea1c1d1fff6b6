"""``--show_rows``: training rows as the model sees them, with their scored tokens highlighted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from slm_data import Row, RowDataset
from slm_train.training_run import Run

_SCORED, _SPECIAL, _LABEL = "bold green", "underline", "dim"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class _Piece:
    """Neighbouring tokens of one kind, as text."""

    text: str
    is_scored: bool
    is_special: bool


def show_rows(console: Console, current: Run, count: int) -> None:
    """Print the first ``count`` training rows. On a terminal scored tokens are green, elsewhere between ``[[ ]]``."""
    tokenizer, rows = current.base.tokenizer, current.rows.train
    has_colours = console.is_terminal and not console.no_color
    total = f" of {len(rows):,}" if isinstance(rows, RowDataset) else ""
    mark = "green" if has_colours else "between [[ and ]]"
    console.print(f"Scored tokens are {mark}; only they have a loss. Nothing is trained.", markup=False)
    for index, row in enumerate(islice(iter(_each(rows)), count)):
        console.print(f"\nrow {index + 1:,}{total}: {_counts(row, tokenizer)}", style="bold", markup=False)
        for number, segment in enumerate(_segments(row)):
            if len(row.segments) > 1:
                label = f"-- document {number + 1}: {_counts(segment, tokenizer)}"
                console.print(label, style=_LABEL, markup=False)
            console.print(_as_text(_pieces(segment, tokenizer), has_colours=has_colours))


def _each(rows: Iterable[Row] | RowDataset) -> Iterable[Row]:
    return (rows[index] for index in range(len(rows))) if isinstance(rows, RowDataset) else rows


def scored_tokens(row: Row) -> npt.NDArray[np.bool_]:
    """Return which tokens of ``row`` have a loss ``[tokens]``: never the first one of a segment."""
    scored = np.ones(len(row.input_ids), np.bool_) if row.scored is None else np.array(row.scored, np.bool_)
    scored[np.cumsum(row.segments) - row.segments] = False
    return scored


def _segments(row: Row) -> Iterator[Row]:
    scored = scored_tokens(row)
    for end, length in zip(np.cumsum(row.segments).tolist(), row.segments.tolist(), strict=True):
        part = slice(end - length, end)
        yield Row(row.input_ids[part], np.array([length]), scored[part])


def _counts(row: Row, tokenizer: PreTrainedTokenizerBase) -> str:
    special = int(np.isin(row.input_ids, tokenizer.all_special_ids).sum())
    return f"{len(row.input_ids):,} tokens, {int(scored_tokens(row).sum()):,} scored, {special:,} special"


def _pieces(segment: Row, tokenizer: PreTrainedTokenizerBase) -> Iterator[_Piece]:
    special, ids = set(tokenizer.all_special_ids), segment.input_ids.tolist()
    kinds = list(zip(scored_tokens(segment).tolist(), [token in special for token in ids], strict=True))
    start = 0
    for (is_scored, is_special), group in groupby(kinds):
        end = start + len(list(group))
        yield _Piece(_text_of(tokenizer, ids, start, end), is_scored, is_special)
        start = end


def _text_of(tokenizer: PreTrainedTokenizerBase, ids: list[int], start: int, end: int) -> str:
    """Decode a part of ``ids`` after the token before it, on which the space at its beginning may depend."""
    before = _decode(tokenizer, ids[max(0, start - 1) : start])
    text = _decode(tokenizer, ids[max(0, start - 1) : end])
    return text[len(before) :] if text.startswith(before) else _decode(tokenizer, ids[start:end])


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)) if ids else ""


def _as_text(pieces: Iterable[_Piece], *, has_colours: bool) -> Text:
    text = Text()
    for is_scored, group in groupby(pieces, key=lambda piece: piece.is_scored):
        parts = [(_CONTROL.sub("\ufffd", piece.text), piece.is_special) for piece in group]
        if is_scored and not has_colours:
            parts = [("[[", False), *parts, ("]]", False)]
        for part, is_special in parts:
            styles = [_SCORED] * is_scored + [_SPECIAL] * is_special
            text.append(part, " ".join(styles) if has_colours and styles else None)
    return text
