"""Files with one JSON value per line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from slm_data.errors import DataError
from slm_data.sources.content import SourceFile
from slm_data.sources.decoding.text_decoding import decode_lines
from slm_data.sources.readers.settings import ReaderSettings
from slm_data.sources.record import Record

LINES_HINT = 'write one object per line, such as {"text": "..."}'


def read_json_lines(file: SourceFile, settings: ReaderSettings) -> Iterator[Record]:
    """Yield the objects or strings of the lines; blank lines are skipped."""
    for number, line in decode_lines(file):
        if line.strip():
            where = f"{file.path}, line {number}"
            yield as_record(_parse(line, where), where)


def as_record(value: Any, where: str) -> Record:
    """Return an object or string as a record. Raises DataError for any other value."""
    if not isinstance(value, dict | str):
        raise DataError(f"{where}: a JSON {type(value).__name__}, not an object; {LINES_HINT}")
    return Record(value, where)


def _parse(line: str, where: str) -> Any:
    try:
        value = json.loads(line)
    # Deeply nested input exhausts the parser's stack: RecursionError, not JSONDecodeError.
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{where}: broken JSON ({error}); {_hint(line)}") from error
    if isinstance(value, list):
        raise DataError(f"{where}: a JSON list, not an object; {_hint(line)}")
    return value


def _hint(line: str) -> str:
    if line.lstrip().startswith("["):
        return f"name the file .json if it is an array, or {LINES_HINT}"
    return LINES_HINT
