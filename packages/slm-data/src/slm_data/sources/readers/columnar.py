"""``.parquet`` and ``.arrow`` files, those of ``Dataset.save_to_disk`` included."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from slm_data.errors import DataError
from slm_data.sources.content import SourceFile
from slm_data.sources.decoding.compression import open_seekable
from slm_data.sources.readers.settings import ReaderSettings
from slm_data.sources.record import Record

ROWS_PER_BATCH = 1024  # rows converted to Python objects at once
ARROW_FILE_MAGIC = b"ARROW1"


def read_parquet(file: SourceFile, settings: ReaderSettings) -> Iterator[Record]:
    """Yield the rows of a Parquet file."""
    with open_seekable(file) as opened, _explain_broken(file, "Parquet"), pq.ParquetFile(opened) as parquet:
        columns = _needed(parquet.schema_arrow, settings, file)
        yield from _records(parquet.iter_batches(ROWS_PER_BATCH, columns=columns), columns, file)


def read_arrow(file: SourceFile, settings: ReaderSettings) -> Iterator[Record]:
    """Yield the rows of an Arrow file, of either layout: file or stream."""
    with open_seekable(file) as opened, _explain_broken(file, "Arrow"):
        schema, batches = _open_arrow(opened)
        yield from _records(batches, _needed(schema, settings, file), file)


def _open_arrow(opened: IO[bytes]) -> tuple[pa.Schema, Iterable[pa.RecordBatch]]:
    is_file = opened.read(len(ARROW_FILE_MAGIC)) == ARROW_FILE_MAGIC
    opened.seek(0)
    if not is_file:
        stream = pa.ipc.open_stream(opened)
        return stream.schema, stream
    reader = pa.ipc.open_file(opened)
    return reader.schema, (reader.get_batch(index) for index in range(reader.num_record_batches))


def _records(batches: Iterable[pa.RecordBatch], columns: list[str], file: SourceFile) -> Iterator[Record]:
    number = 0
    for batch in batches:
        # Parquet may add columns whose dotted names start like a needed one.
        needed = batch.select([name for name in batch.schema.names if name in columns])
        for start in range(0, needed.num_rows, ROWS_PER_BATCH):
            for row in needed.slice(start, ROWS_PER_BATCH).to_pylist():
                number += 1
                yield Record(row, f"{file.path}, row {number}")


def _needed(schema: pa.Schema, settings: ReaderSettings, file: SourceFile) -> list[str]:
    """Return the columns to read: those of the needed ones that the file has, or all if it has none of them."""
    repeated = [name for name, count in Counter(schema.names).items() if count > 1]
    if repeated:
        raise DataError(f"{file.path} has two columns {repeated[0]!r}; rename one of them")
    needed = {name if name in schema.names else name.partition(".")[0] for name in settings.columns or schema.names}
    return [name for name in schema.names if name in needed] or list(schema.names)


@contextmanager
def _explain_broken(file: SourceFile, format_name: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{file.path} is broken or not {format_name} ({reason}); copy or download it again") from error
