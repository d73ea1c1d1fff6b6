"""``.json`` files: an array, an object with one list in it, or one object per line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from slm_data.errors import DataError
from slm_data.sources.content import SourceFile
from slm_data.sources.decoding.text_decoding import decode_chunks, decode_lines
from slm_data.sources.readers.json_lines import as_record, read_json_lines
from slm_data.sources.readers.json_stream import JsonStream
from slm_data.sources.readers.settings import ReaderSettings
from slm_data.sources.record import Record

# An object with one of these is a row itself, even if it contains a list.
LIST_COLUMNS = ("messages", "conversations", "conversation")
ROW_COLUMNS = ("text", "prompt", "completion", "instruction", "output", "response")


def read_json(file: SourceFile, settings: ReaderSettings) -> Iterator[Record]:
    """Yield the rows of a file in any of the three layouts. Memory is that of one row, not of the file."""
    if _has_rows_on_lines(file):
        yield from read_json_lines(file, settings)
        return
    stream = JsonStream(decode_chunks(file, translate=False), file.path)
    if stream.peek() == "[":
        yield from _elements(stream)
    elif stream.peek():
        yield from _wrapped_elements(stream, settings)
    if stream.peek():
        raise DataError(
            f"{stream.where}: a second JSON value after the end of the first; write one value per line "
            "(jq -c . FILE writes such lines)"
        )


def _has_rows_on_lines(file: SourceFile) -> bool:
    """Return whether the first line is a whole object or string, and another line follows."""
    if _first_character(file) == "[":
        return False  # before its first line is read, which may be the whole file
    lines = (line for _, line in decode_lines(file) if line.strip())
    try:
        json.loads(next(lines, ""))
    except (json.JSONDecodeError, RecursionError):
        return False
    except DataError:  # a first line that is too long for a row: an object around a list
        return False
    return next(lines, None) is not None


def _first_character(file: SourceFile) -> str:
    chunks = decode_chunks(file, translate=False)
    return next((text[0] for chunk in chunks if (text := chunk.lstrip())), "")


def _elements(stream: JsonStream) -> Iterator[Record]:
    """Yield the elements of the array at the current position."""
    stream.take("[")
    if stream.peek() == "]":
        stream.take("]")
        return
    separator, number = ",", 0
    while separator == ",":
        number += 1
        stream.peek()
        where = f"{stream.where}, element {number}"
        yield as_record(stream.decode(), where)
        separator = stream.take(",]")


def _wrapped_elements(stream: JsonStream, settings: ReaderSettings) -> Iterator[Record]:
    """Yield the elements of the only list of the object at the current position, or the object itself as a row."""
    where, row, list_name = stream.where, dict[str, Any](), None
    columns = {*(settings.columns or ()), *ROW_COLUMNS, *LIST_COLUMNS}
    stream.take("{")
    separator = "," if stream.peek() != "}" else stream.take("}")
    while separator == ",":
        name = _member_name(stream)
        is_list = stream.peek() == "[" and name not in LIST_COLUMNS and not columns & row.keys()
        if is_list and list_name is None:
            list_name = name
            yield from _elements(stream)
        else:
            row[name] = stream.decode()
        if list_name is not None and ((is_list and name != list_name) or name in columns & row.keys()):
            raise DataError(
                f"{where}: an object with the list {list_name!r} and also {name!r}; write an array, or one row per line"
            )
        separator = stream.take(",}")
    if list_name is None:
        yield as_record(row, where)


def _member_name(stream: JsonStream) -> str:
    if stream.peek() != '"':
        raise stream.error("expected a name in double quotes")
    name = str(stream.decode())
    stream.take(":")
    return name
