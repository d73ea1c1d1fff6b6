"""One reader per file format: from a path and options to an iterator of texts.

Files are read in pieces, never as a whole. Text is strict UTF-8, with or without a byte-order mark. A fault raises
DataError while iterating, with file and line.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from slm_data.errors import DataError
from slm_data.sources.options import SourceOptions
from slm_data.sources.text_decoding import CHUNK_BYTES, MAX_LENGTH, decode_chunks, decode_lines, split_documents

ROWS_PER_BATCH = 1024  # rows of a .parquet file decoded at once
JSON_LINES_HINT = """write one object per line, such as {"text": "..."} (jq -c '.[]' converts an array to such lines)"""


def select_column(columns: Sequence[str], requested: str | None, where: str) -> str:
    """Return ``requested``, or ``text`` if it is None; raises DataError if there is no such column."""
    column = requested or "text"
    if column not in columns:
        available = ", ".join(map(str, columns)) or "none"
        raise DataError(
            f"{where} has no column {column!r}; name the column that contains the text with --text_column "
            f"(columns: {available})"
        )
    return column


def read_txt(path: Path, options: SourceOptions, chunk_bytes: int = CHUNK_BYTES) -> Iterator[str]:
    """Yield the documents between separators, without leading and trailing newlines; CR LF is read as LF."""
    for document in split_documents(decode_chunks(path, chunk_bytes), options.separator, path):
        yield document.strip("\n")


def read_jsonl(path: Path, options: SourceOptions) -> Iterator[str]:
    """Yield the texts of JSON objects, one per line; blank lines are skipped."""
    for number, line in decode_lines(path):
        if line.strip():
            where = f"{path}, line {number}"
            row = _parse_object(line, where)
            column = select_column(list(row), options.text_column, where)
            yield _as_text(row[column], column, where)


def read_csv(path: Path, options: SourceOptions) -> Iterator[str]:
    """Yield the texts of a CSV file whose first line names the columns; quoted fields may contain newlines."""
    # Python's default limit, 128 KiB, is shorter than many documents. The setting applies to the whole process.
    csv.field_size_limit(MAX_LENGTH)
    rows = csv.reader((line for _, line in decode_lines(path)), strict=True)
    try:
        columns = next(rows, [])
        column = columns.index(select_column(columns, options.text_column, str(path)))
        for row in rows:
            if row and len(row) <= column:
                raise DataError(
                    f"{path}, line {rows.line_num}: {len(row)} fields, but the header names {len(columns)}; "
                    "add the missing fields"
                )
            if row:
                yield row[column]
    except csv.Error as error:
        raise DataError(f"{path}, line {rows.line_num}: broken CSV ({error}); check the quotes there") from error


def read_parquet(path: Path, options: SourceOptions) -> Iterator[str]:
    """Yield the texts of one column; a null is an empty text."""
    try:
        with pq.ParquetFile(path) as file:
            column = select_column(file.schema_arrow.names, options.text_column, str(path))
            for batch in file.iter_batches(ROWS_PER_BATCH, columns=[column]):
                for value in batch.column(0).to_pylist():
                    yield _as_text(value, column, str(path))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path} is broken or not a Parquet file ({reason}); copy or download it again") from error


READERS: dict[str, Callable[[Path, SourceOptions], Iterator[str]]] = {
    ".txt": read_txt,
    ".jsonl": read_jsonl,
    ".json": read_jsonl,
    ".csv": read_csv,
    ".parquet": read_parquet,
}


def _parse_object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    # Deeply nested input exhausts the parser's stack: RecursionError, not JSONDecodeError.
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{where}: broken JSON ({error}); {JSON_LINES_HINT}") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: a JSON {type(row).__name__}, not an object; {JSON_LINES_HINT}")
    return row


def _as_text(value: object, column: str, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(
            f"{where}: column {column!r} contains {type(value).__name__} {value!r:.40}, not text; "
            "choose another with --text_column"
        )
    try:
        # JSON escapes can produce a lone surrogate, which no tokenizer can encode.
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: half of a surrogate pair at character {error.start} of {column!r}; repair or remove it"
        ) from error
    return value
