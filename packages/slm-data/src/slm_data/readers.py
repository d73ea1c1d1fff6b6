"""One reader a file format: a path and the options to an iterator of texts.

Files are read piece by piece, none is ever held whole. Text is strict UTF-8, with or without a
byte-order mark. What is wrong is raised as DataError by the iterator that meets it, naming the
file and the line.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from slm_data.errors import DataError
from slm_data.options import SourceOptions

CHUNK = 1 << 20  # bytes of a .txt read at once
ROWS = 1024  # rows of a .parquet decoded at once
LONGEST = 1 << 26  # characters of one document, or bytes of one line: what bounds the memory
AS_LINES = """write one object a line, such as {"text": "..."} (jq -c '.[]' turns an array into such lines)"""


def pick_column(columns: Sequence[str], wanted: str | None, where: str) -> str:
    """``wanted``, or ``text``; raises DataError with the columns that there are."""
    column = wanted or "text"
    if column not in columns:
        have = ", ".join(map(str, columns)) or "none"
        raise DataError(
            f"{where} has no column {column!r}; name the one with the text by --text_column (columns: {have})"
        )
    return column


def read_txt(path: Path, options: SourceOptions, chunk: int = CHUNK) -> Iterator[str]:
    """Documents between separators, without the newlines at their ends; CR LF is read as LF."""
    for document in _split(_decode(path, chunk), options.separator, path):
        yield document.strip("\n")


def read_jsonl(path: Path, options: SourceOptions) -> Iterator[str]:
    """One JSON object a line; blank lines are passed over."""
    for number, line in _lines(path):
        if line.strip():
            where = f"{path}, line {number}"
            row = _json_object(line, where)
            column = pick_column(list(row), options.text_column, where)
            yield _text(row[column], column, where)


def read_csv(path: Path, options: SourceOptions) -> Iterator[str]:
    """Comma-separated, with a line of column names first; quoted fields may hold newlines."""
    csv.field_size_limit(LONGEST)  # the module's own limit, 128 KiB, is shorter than many a text
    rows = csv.reader((line for _, line in _lines(path)), strict=True)
    try:
        columns = next(rows, [])
        column = columns.index(pick_column(columns, options.text_column, str(path)))
        for row in rows:
            if row and len(row) <= column:
                raise DataError(
                    f"{path}, line {rows.line_num}: {len(row)} fields where the header names {len(columns)}"
                )
            if row:
                yield row[column]
    except csv.Error as error:
        raise DataError(f"{path}, line {rows.line_num}: broken CSV ({error}); check the quotes there") from error


def read_parquet(path: Path, options: SourceOptions) -> Iterator[str]:
    """One column of text; a null is an empty text."""
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            column = pick_column(names, options.text_column, str(path))
            for batch in file.iter_batches(ROWS, columns=[column]):
                for value in batch.column(0).to_pylist():
                    yield _text(value, column, str(path))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path} is broken or no Parquet file ({reason}); copy or download it again") from error


READERS: dict[str, Callable[[Path, SourceOptions], Iterator[str]]] = {
    ".txt": read_txt,
    ".jsonl": read_jsonl,
    ".json": read_jsonl,
    ".csv": read_csv,
    ".parquet": read_parquet,
}


def _decode(path: Path, chunk: int) -> Iterator[str]:
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")(), translate=True)
    with path.open("rb") as file:
        if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
            file.seek(0)
        more = True
        while more:
            piece = file.read(chunk)
            more = bool(piece)
            try:
                yield decoder.decode(piece, final=not more)
            except UnicodeDecodeError as error:
                raise _not_utf8(path, file.tell() - len(error.object) + error.start) from error


def _split(chunks: Iterable[str], separator: str, path: Path) -> Iterator[str]:
    rest = ""
    for chunk in chunks:
        *documents, rest = (rest + chunk).split(separator)
        yield from documents
        if len(rest) > LONGEST:
            raise DataError(
                f"{path} has no {separator!r} within {LONGEST >> 20} Mi characters; "
                r"give a --document_separator that it has (\n makes every line a document)"
            )
    yield rest


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST), b""), 1):
            if len(line) == LONGEST:
                raise DataError(f"{path}, line {number}: longer than {LONGEST >> 20} MiB; cut its text into several")
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                raise _not_utf8(path, file.tell() - len(line) + error.start) from error
            yield number, text.removeprefix("\ufeff") if number == 1 else text


def _not_utf8(path: Path, offset: int) -> DataError:
    line, left = 1, offset
    with path.open("rb") as file:
        while left and (piece := file.read(min(left, CHUNK))):
            line, left = line + piece.count(b"\n"), left - len(piece)
    return DataError(
        f"{path}, line {line}: not UTF-8 (byte {offset} of the file); "
        f"convert it, for example by iconv -f ISO-8859-1 -t UTF-8"
    )


def _json_object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{where}: broken JSON ({error}); {AS_LINES}") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: a JSON {type(row).__name__}, not an object; {AS_LINES}")
    return row


def _text(value: object, column: str, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(
            f"{where}: column {column!r} holds {type(value).__name__} {value!r:.40}, not text; "
            "pick another by --text_column"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: half of a surrogate pair at character {error.start} of {column!r}; repair or remove it"
        ) from error
    return value
