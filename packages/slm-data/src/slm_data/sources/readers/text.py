"""Files without columns: .txt files with several documents, and Markdown and source code with one each."""

from __future__ import annotations

from collections.abc import Iterator

from slm_data.errors import DataError
from slm_data.sources.content import SourceFile
from slm_data.sources.decoding import text_decoding
from slm_data.sources.decoding.text_decoding import decode_chunks, split_documents
from slm_data.sources.readers.settings import ReaderSettings
from slm_data.sources.record import Record


def read_txt(file: SourceFile, settings: ReaderSettings, chunk_bytes: int | None = None) -> Iterator[Record]:
    """Yield the documents between separators, without the newlines around them; CR LF is read as LF."""
    chunks = decode_chunks(file, translate=True, chunk_bytes=chunk_bytes)
    for number, document in enumerate(split_documents(chunks, settings.separator, file.path), 1):
        yield Record(document, f"{file.path}, document {number}")


def read_document(file: SourceFile, settings: ReaderSettings) -> Iterator[Record]:
    """Yield the whole file as one document; CR LF is read as LF."""
    parts, length = [], 0
    for chunk in decode_chunks(file, translate=True):
        parts.append(chunk)
        length += len(chunk)
        if length > text_decoding.MAX_LENGTH:
            raise DataError(
                f"{file.path} is longer than {text_decoding.MAX_LENGTH >> 20} Mi characters, too long for one "
                "document; split it into several files"
            )
    yield Record("".join(parts), str(file.path))
