"""Strict decoding of text files in chunks and lines, with bounded memory: UTF-8, or UTF-16 with a byte-order mark."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from slm_data.errors import DataError
from slm_data.sources.content import SourceFile
from slm_data.sources.decoding.compression import HEAD_BYTES, check_is_text, open_content
from slm_data.sources.decoding.encodings import conversion_command, detect_encoding, guess_encoding, is_mostly_utf8

CHUNK_BYTES = 1 << 20
# Bounds memory: maximum characters of a document in a .txt file, of a line, and of a value in a .json file.
MAX_LENGTH = 1 << 26

BLANK_LINE = "\n\n"  # as a separator of documents
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")
_LEADING_BLANK_LINES = re.compile(r"(?:[^\S\n]*\n)*")


def decode_chunks(file: SourceFile, *, translate: bool, chunk_bytes: int | None = None) -> Iterator[str]:
    """Yield the text of a file in pieces, without a byte-order mark.

    Args:
        file: The file, which may be compressed.
        translate: Whether CR LF and CR become LF.
        chunk_bytes: Bytes decoded at once.

    Raises:
        DataError: It is not text, in another encoding, or contains NUL bytes.
    """
    size = chunk_bytes or CHUNK_BYTES
    with open_content(file) as content:
        head = content.read(HEAD_BYTES)
        check_is_text(head, file)
        encoding, mark = detect_encoding(head)
        if encoding is None:
            raise _encoding_error(file, 1, 0, head)
        first = (head[start : start + size] for start in range(mark, len(head), size))
        chunks = chain(first, iter(lambda: content.read(size), b""), [b""])
        yield from _decode(file, chunks, encoding, mark, translate)


def split_documents(chunks: Iterable[str], separator: str, path: Path) -> Iterator[str]:
    """Yield the texts between separators that are not blank, without blank lines around them.

    A line of white space is a blank line: it separates documents if the separator is a blank line.

    Raises:
        DataError: A document is longer than ``MAX_LENGTH``.
    """
    pattern = _BLANK_LINE if separator == BLANK_LINE else re.compile(re.escape(separator))
    remainder, searched = "", 0
    for chunk in chunks:
        text, start = remainder + chunk, 0
        for match in pattern.finditer(text, searched):
            if document := _strip(text[start : match.start()], separator):
                yield document
            start = match.end()
        remainder = text[start:]
        searched = _unsearched(remainder, separator)
        if len(remainder) > MAX_LENGTH:
            raise DataError(
                f"{path} has no {separator!r} within {MAX_LENGTH >> 20} Mi characters; "
                r"use a --document_separator that occurs in it (\n makes every line a document)"
            )
    if document := _strip(remainder, separator):
        yield document


def decode_lines(file: SourceFile) -> Iterator[tuple[int, str]]:
    """Yield number (from 1) and text of each line, newline included."""
    number, remainder = 0, ""
    for chunk in decode_chunks(file, translate=False):
        *lines, remainder = (remainder + chunk).split("\n")
        for line in lines:
            number += 1
            yield number, line + "\n"
        if len(remainder) > MAX_LENGTH:
            raise DataError(
                f"{file.path}, line {number + 1}: longer than {MAX_LENGTH >> 20} Mi characters; "
                "split its text into several"
            )
    if remainder:
        yield number + 1, remainder


def _decode(file: SourceFile, chunks: Iterable[bytes], encoding: str, offset: int, translate: bool) -> Iterator[str]:
    """Decode bytes that start at ``offset``. The last of them is empty: it ends the text."""
    plain = codecs.getincrementaldecoder(encoding)()
    decoder = io.IncrementalNewlineDecoder(plain, translate=True) if translate else plain
    line = 1
    for chunk in chunks:
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            # error.object starts with the bytes that the decoder kept from the chunk before.
            first = offset + len(chunk) - len(error.object)
            line += error.object[: error.start].decode(encoding, "ignore").count("\n")
            raise _decoding_error(file, line, first + error.start, encoding, error) from error
        if "\0" in text:
            raise _nul_error(file, line + text[: text.index("\0")].count("\n"), chunk, encoding)
        offset += len(chunk)
        line += text.count("\n")
        yield text


def _strip(document: str, separator: str) -> str:
    if not document or document.isspace():
        return ""
    if separator != BLANK_LINE:
        return document.strip("\n")
    leading = _LEADING_BLANK_LINES.match(document)
    assert leading is not None
    first_trailing = document.find("\n", len(document.rstrip()))
    return document[leading.end() : first_trailing if first_trailing >= 0 else None]


def _unsearched(remainder: str, separator: str) -> int:
    """Return where in ``remainder``, which contains no separator, one can start that ends in the next chunk."""
    if separator == BLANK_LINE:
        return max(remainder.rfind("\n"), 0)
    return max(len(remainder) - len(separator) + 1, 0)


def _decoding_error(file: SourceFile, line: int, offset: int, encoding: str, error: UnicodeDecodeError) -> DataError:
    if error.reason in ("unexpected end of data", "truncated data"):
        return DataError(
            f"{file.path}, line {line}: the text ends within a character (byte {offset}), so the file is truncated; "
            "copy or download it again"
        )
    if encoding != "utf-8":
        return DataError(
            f"{file.path}, line {line}: invalid {encoding.upper()} (byte {offset}); write the file again in UTF-8"
        )
    return _encoding_error(file, line, offset, error.object)


def _encoding_error(file: SourceFile, line: int, offset: int, sample: bytes) -> DataError:
    where = f"{file.path}, line {line}: not UTF-8 (byte {offset} of the file)"
    if is_mostly_utf8(sample):
        command = conversion_command(file, "UTF-8")
        return DataError(f"{where}, although most of it is; drop the invalid bytes, for example with {command}")
    encoding = guess_encoding(sample)
    command = conversion_command(file, encoding)
    if encoding is None:
        return DataError(f"{where}; convert it from the ENCODING it was written in: {command}")
    return DataError(f"{where}, probably {encoding}; convert it with {command}")


def _nul_error(file: SourceFile, line: int, sample: bytes, decoded_as: str) -> DataError:
    encoding = guess_encoding(sample) if decoded_as == "utf-8" else None
    if encoding is None:
        return DataError(
            f"{file.path}, line {line}: contains NUL bytes, so it is not text or is damaged; "
            "copy or download it again, or remove them with tr -d '\\000'"
        )
    return DataError(
        f"{file.path}, line {line}: not UTF-8, but {encoding} without a byte-order mark; "
        f"convert it with {conversion_command(file, encoding)}"
    )
