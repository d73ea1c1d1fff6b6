"""``.csv`` and ``.tsv`` files."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

from slm_data.errors import DataError
from slm_data.sources.content import SourceFile
from slm_data.sources.decoding import text_decoding
from slm_data.sources.decoding.text_decoding import decode_lines
from slm_data.sources.readers.settings import ReaderSettings
from slm_data.sources.record import Record

DELIMITER_NAMES = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "'|'"}


def _read_delimited(file: SourceFile, settings: ReaderSettings, delimiter: str) -> Iterator[Record]:
    # Python's default limit, 128 KiB, is shorter than many documents. The setting applies to the whole process.
    csv.field_size_limit(text_decoding.MAX_LENGTH)
    lines = (line for _, line in decode_lines(file))
    rows = csv.reader(lines, strict=True, delimiter=delimiter)
    line = 1  # where the current row starts; a quoted field may contain newlines
    try:
        columns: list[str] = []
        for row in rows:
            where = f"{file.path}, line {line}"
            line = rows.line_num + 1
            if _is_blank(row):
                continue
            if not columns:
                columns = row
                _check_header(columns, delimiter, where)
                continue
            if len(row) != len(columns):
                raise DataError(f"{where}: {_misfit(len(row), len(columns), delimiter)}")
            yield Record(dict(zip(columns, row, strict=True)), where)
    except csv.Error as error:
        raise DataError(f"{file.path}, line {line}: {_explain(error, delimiter)}") from error


read_csv = partial(_read_delimited, delimiter=",")
read_tsv = partial(_read_delimited, delimiter="\t")


def _is_blank(row: Sequence[str]) -> bool:
    return not row or (len(row) == 1 and not row[0].strip())


def _check_header(columns: Sequence[str], delimiter: str, where: str) -> None:
    repeated = [name for name, count in Counter(columns).items() if count > 1 and name]
    if repeated:
        raise DataError(f"{where}: the header names {repeated[0]!r} twice; rename one of the columns")
    others = [other for other in DELIMITER_NAMES if other != delimiter and other in columns[0]]
    if len(columns) == 1 and others:
        raise DataError(
            f"{where}: the header {columns[0]!r:.60} has one field; separate fields by {DELIMITER_NAMES[delimiter]}, "
            f"not {DELIMITER_NAMES[others[0]]}{' (or name the file .tsv)' if others[0] == chr(9) else ''}"
        )


def _explain(error: csv.Error, delimiter: str) -> str:
    if "new-line character" in str(error):
        return r"a carriage return without a newline; write newlines, for example with tr '\r' '\n'"
    return f"broken {'CSV' if delimiter == ',' else 'TSV'} ({error}); check the quotes there"


def _misfit(fields: int, columns: int, delimiter: str) -> str:
    found = f"{fields} field{'' if fields == 1 else 's'}, but the header names {columns}"
    if fields < columns:
        return f"{found}; add the missing fields"
    return f"{found}; put fields that contain {DELIMITER_NAMES[delimiter]} in double quotes"
