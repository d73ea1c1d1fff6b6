"""From records to documents, for files and hub datasets alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from slm_data.sources.options import SourceOptions
from slm_data.sources.record import Record
from slm_data.sources.text_column import DEFAULT_COLUMN, text_of


def needed_columns(options: SourceOptions) -> tuple[str, ...]:
    """Return the columns that ``read_texts`` takes from records with columns."""
    return (options.text_column or DEFAULT_COLUMN,)


def read_texts(read: Callable[[], Iterable[Record]], options: SourceOptions) -> Iterator[str]:
    """Yield the texts of the records that ``read`` returns."""
    return (text_of(record, options.text_column) for record in read())
