"""Strict UTF-8 decoding of text files in chunks and lines, with bounded memory."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterable, Iterator
from pathlib import Path

from slm_data.errors import DataError

CHUNK_BYTES = 1 << 20
# Bounds memory: maximum characters of a document in a .txt file, and maximum bytes of a line in other files.
MAX_LENGTH = 1 << 26


def decode_chunks(path: Path, chunk_bytes: int) -> Iterator[str]:
    """Yield the text of a file in pieces of about ``chunk_bytes``, without a byte-order mark and with LF newlines."""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")(), translate=True)
    with path.open("rb") as file:
        if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
            file.seek(0)
        more = True
        while more:
            chunk = file.read(chunk_bytes)
            more = bool(chunk)
            try:
                yield decoder.decode(chunk, final=not more)
            except UnicodeDecodeError as error:
                # error.object starts with the bytes that the decoder kept from the chunk before.
                raise _encoding_error(path, file.tell() - len(error.object) + error.start) from error


def split_documents(chunks: Iterable[str], separator: str, path: Path) -> Iterator[str]:
    """Yield the texts between separators. Raises DataError for a document longer than ``MAX_LENGTH``."""
    remainder = ""
    for chunk in chunks:
        # The remainder is searched again, because a separator may span two chunks.
        *documents, remainder = (remainder + chunk).split(separator)
        yield from documents
        if len(remainder) > MAX_LENGTH:
            raise DataError(
                f"{path} has no {separator!r} within {MAX_LENGTH >> 20} Mi characters; "
                r"use a --document_separator that occurs in it (\n makes every line a document)"
            )
    yield remainder


def decode_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number (from 1) and text of each line, newline included."""
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LENGTH), b""), 1):
            if len(line) == MAX_LENGTH:
                raise DataError(
                    f"{path}, line {number}: longer than {MAX_LENGTH >> 20} MiB; split its text into several"
                )
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                raise _encoding_error(path, file.tell() - len(line) + error.start) from error
            yield number, text.removeprefix("\ufeff") if number == 1 else text


def _encoding_error(path: Path, offset: int) -> DataError:
    line, remaining = 1, offset
    with path.open("rb") as file:
        while remaining and (chunk := file.read(min(remaining, CHUNK_BYTES))):
            line, remaining = line + chunk.count(b"\n"), remaining - len(chunk)
    return DataError(
        f"{path}, line {line}: not UTF-8 (byte {offset} of the file); "
        f"convert it, for example with iconv -f ISO-8859-1 -t UTF-8"
    )
