"""Reading the user's own files, whatever their format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from slm_data.errors import DataError
from slm_data.sources.content import SourceFile, check_unchanged
from slm_data.sources.decoding.compression import check_is_compressed
from slm_data.sources.readers.columnar import read_arrow, read_parquet
from slm_data.sources.readers.delimited import read_csv, read_tsv
from slm_data.sources.readers.json_document import read_json
from slm_data.sources.readers.json_lines import read_json_lines
from slm_data.sources.readers.settings import ReaderSettings
from slm_data.sources.readers.text import read_document, read_txt
from slm_data.sources.record import Record

READERS: dict[str, Callable[[SourceFile, ReaderSettings], Iterator[Record]]] = {
    "txt": read_txt,
    "document": read_document,
    "jsonl": read_json_lines,
    "json": read_json,
    "csv": read_csv,
    "tsv": read_tsv,
    "parquet": read_parquet,
    "arrow": read_arrow,
}


def read_records(files: Sequence[SourceFile], settings: ReaderSettings) -> Iterator[Record]:
    """Yield the records of all files, one file after another.

    Raises:
        DataError: A file cannot be read, is broken, or is no longer the one that was found.
    """
    for file in files:
        check_is_compressed(file)
        try:
            yield from READERS[file.kind](file, settings)
        except DataError:
            check_unchanged(file)  # that a file changed while it was read is the better explanation of a fault in it
            raise
