"""From a record to its text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from slm_data.errors import DataError
from slm_data.sources.record import Record

DEFAULT_COLUMN = "text"
MAX_LISTED_COLUMNS = 20


def text_of(record: Record, column: str | None) -> str:
    """Return the text of a record: all of it, or that in ``column`` (default ``text``). A null is an empty text.

    Raises:
        DataError: There is no such column, or it contains something else.
    """
    if isinstance(record.value, str):
        return _encodable(record.value, "the text", record.where)
    name = column or DEFAULT_COLUMN
    return _as_text(value_of(record, name), name, record.where)


def value_of(record: Record, dotted_name: str) -> Any:
    """Return the value in a column; ``a.b`` is ``b`` within ``a``, unless a column has the dotted name itself.

    Raises:
        DataError: There is no such column.
    """
    value = _look_up(record.value, dotted_name)
    if value is _MISSING:
        names = list(_leaves(record.value))
        listed = ", ".join(names[:MAX_LISTED_COLUMNS]) + (" ..." if len(names) > MAX_LISTED_COLUMNS else "")
        raise DataError(
            f"{record.where} has no column {dotted_name!r}; name the column that contains the text with --text_column "
            f"(columns: {listed or 'none'})"
        )
    return value


def _as_text(value: object, column: str, where: str) -> str:
    """Return a value of a column as text; a null is an empty one. Raises DataError for any other value."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(
            f"{where}: column {column!r} contains {type(value).__name__} {value!r:.40}, not text; "
            "choose another with --text_column"
        )
    return _encodable(value, repr(column), where)


_MISSING = object()


def _look_up(value: Any, dotted_name: str) -> Any:
    if not isinstance(value, Mapping):
        return _MISSING
    if dotted_name in value:
        return value[dotted_name]
    head, dot, rest = dotted_name.partition(".")
    if not dot or head not in value:
        return _MISSING
    return None if value[head] is None else _look_up(value[head], rest)


def _leaves(value: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all columns."""
    if not isinstance(value, Mapping):
        return
    for name, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _leaves(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _encodable(text: str, what: str, where: str) -> str:
    try:
        # JSON escapes can produce a lone surrogate, which no tokenizer can encode.
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: half of a surrogate pair at character {error.start} of {what}; repair or remove it"
        ) from error
    return text
