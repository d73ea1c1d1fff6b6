"""Reading compressed files, and recognising files whose name promises something else."""

from __future__ import annotations

import gzip
import io
import shlex
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pyarrow as pa

from slm_data.errors import DataError
from slm_data.sources.content import BLOCK_BYTES, SourceFile, check_unchanged, explain_read_errors, open_verified
from slm_data.sources.file_formats import COMPRESSIONS, parse_file_name

HEAD_BYTES = 64

# The first bytes of formats that are often given another name; compressions first.
MAGIC = {
    b"\x1f\x8b\x08": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh91AY&SY": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"PK\x03\x04": "a zip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"\x04\x22\x4d\x18": "lz4",
    b"PAR1\x15": "Parquet",
    b"ARROW1\x00\x00": "Arrow",
    b"\xff\xff\xff\xff": "Arrow",  # the stream format
    b"%PDF-1.": "a PDF",
    b"SQLite format 3\x00": "an SQLite database",
    b"\x89HDF\r\n\x1a\n": "HDF5",
}
RENAMED = {"gzip": "{path}.gz", "zstd": "{path}.zst", "Parquet": "{stem}.parquet", "Arrow": "{stem}.arrow"}
UNPACK = {"bzip2": "bunzip2", "xz": "unxz", "a zip archive": "unzip", "a 7z archive": "7z x", "lz4": "unlz4"}


@contextmanager
def open_content(file: SourceFile) -> Iterator[io.BufferedReader]:
    """Open a file for one sequential, verified read of its decompressed bytes; see ``open_verified``."""
    with open_verified(file) as raw, _explain_broken(file):
        if file.compression == "gzip":
            yield io.BufferedReader(gzip.GzipFile(fileobj=raw), BLOCK_BYTES)
        elif file.compression == "zstd":
            yield io.BufferedReader(pa.CompressedInputStream(raw, "zstd"), BLOCK_BYTES)
        else:
            yield raw


@contextmanager
def open_seekable(file: SourceFile) -> Iterator[IO[bytes]]:
    """Open the decompressed bytes of a file for random access; a compressed one is unpacked to a temporary file.

    If the block is left normally, a changed content raises DataError.
    """
    if file.compression:
        with tempfile.TemporaryFile() as unpacked:
            with open_content(file) as content:
                shutil.copyfileobj(content, unpacked, BLOCK_BYTES)
            unpacked.seek(0)
            yield unpacked
        return
    check_unchanged(file)
    with explain_read_errors(file.path), file.path.open("rb") as opened:
        yield opened
        check_unchanged(file)


def check_is_text(head: bytes, file: SourceFile) -> None:
    """Raise DataError if the first bytes of a text file are those of another format."""
    if other := _recognise(head):
        raise DataError(_other_format(file.path, other))


def check_is_compressed(file: SourceFile) -> None:
    """Raise DataError if a file that is named as compressed is not."""
    if file.compression is None:
        return
    with explain_read_errors(file.path), file.path.open("rb") as opened:
        actual = _recognise(opened.read(HEAD_BYTES))
    if actual == file.compression:
        return
    if actual is not None and actual not in COMPRESSIONS.values():
        raise DataError(_other_format(file.path, actual))
    inner = file.path.with_name(file.path.name.removesuffix(parse_file_name(file.path).compression_suffix))
    suffix = next((suffix for suffix, name in COMPRESSIONS.items() if name == actual), "")
    raise DataError(f"{file.path} is {actual or 'not compressed'}, not {file.compression}: name it {inner}{suffix}")


def unpack_command(file: SourceFile) -> str:
    """Return the shell command that prints the decompressed content of a file, or '' for a file as it is."""
    commands = {"gzip": "gzip -dc", "zstd": "zstd -dc"}
    return f"{commands[file.compression]} {shlex.quote(str(file.path))}" if file.compression else ""


def _recognise(head: bytes) -> str | None:
    return next((name for magic, name in MAGIC.items() if head.startswith(magic)), None)


def _other_format(path: Path, actual: str) -> str:
    if actual in RENAMED:
        new_name = RENAMED[actual].format(path=path, stem=path.with_name(parse_file_name(path).stem))
        return f"{path} is {actual}: name it {new_name}"
    if actual in UNPACK:
        return f"{path} is {actual}: unpack it first ({UNPACK[actual]} {shlex.quote(str(path))})"
    return f"{path} is {actual}, not text: extract its text to a .txt or .jsonl file first"


@contextmanager
def _explain_broken(file: SourceFile) -> Iterator[None]:
    """Raise DataError in place of the errors of the decompressors, which pass through the reader's code."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile, pa.ArrowException) as error:
        raise _broken(file, error) from error
    except OSError as error:
        if error.errno is not None:  # of the file itself; those of pyarrow's decompressor have no number
            raise
        raise _broken(file, error) from error


def _broken(file: SourceFile, error: Exception) -> DataError:
    is_cut = isinstance(error, EOFError) or "Truncated" in str(error)
    problem = "is truncated" if is_cut else f"is broken ({error})"
    return DataError(f"{file.path} {problem}: its {file.compression} data is incomplete; copy or download it again")
