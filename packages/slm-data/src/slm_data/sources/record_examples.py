"""From records to examples, for files and hub datasets alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from slm_data.examples.columns import read_columns
from slm_data.examples.data_formats import DataFormat, as_data_format
from slm_data.examples.reading import columns_of, detect_format, read_examples
from slm_data.examples.types import Example
from slm_data.sources.options import SourceOptions
from slm_data.sources.record import Record
from slm_data.sources.text_column import DEFAULT_COLUMN, text_of


def choose_format(first: str | Mapping[str, Any], options: SourceOptions) -> DataFormat:
    """Return the format that the options name, or that of the first record."""
    named = as_data_format(options.data_format)
    return named or detect_format(first, read_columns(options.columns), text_column=options.text_column)


def needed_columns(data_format: DataFormat, options: SourceOptions) -> tuple[str, ...]:
    """Return the columns that ``examples_of`` looks at; a source need not have all of them."""
    if data_format == "text":
        return (options.text_column or DEFAULT_COLUMN,)
    columns = read_columns(options.columns)
    candidates = [name for names in columns.values() for name in names]
    return (*columns_of(data_format, columns, candidates), "tools")  # a conversation with tools is refused


def examples_of(
    read: Callable[[], Iterable[Record]], data_format: DataFormat, options: SourceOptions
) -> Iterator[Example]:
    """Yield the examples in the records that ``read`` returns."""
    if data_format == "text":
        return (text_of(record, options.text_column) for record in read())
    return read_examples(read(), data_format, read_columns(options.columns))
