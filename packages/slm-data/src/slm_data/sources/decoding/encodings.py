"""Encodings of text files: those that are read, and the command that converts any other."""

from __future__ import annotations

import codecs
import shlex

from slm_data.sources.content import SourceFile
from slm_data.sources.decoding.compression import unpack_command
from slm_data.sources.file_formats import parse_file_name

BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
UTF32_MARKS = {codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32"}

MIN_NULS, MIN_NUL_SHARE = 3, 0.01  # in a UTF-16 text: at least its newlines and spaces have one each
MAX_WESTERN_SHARE = 0.5  # above this share of bytes over 127, a text is hardly in a Western encoding


def detect_encoding(head: bytes) -> tuple[str | None, int]:
    """Return the encoding of a text that starts with ``head``, and the length of its byte-order mark.

    The encoding is ``utf-8`` or, with a mark only, ``utf-16-le`` or ``utf-16-be``; None for UTF-32, which is not read.
    """
    if head.startswith(tuple(UTF32_MARKS)):
        return None, 4
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if head.startswith(mark):
            return encoding, len(mark)
    return "utf-8", 0


def guess_encoding(sample: bytes) -> str | None:
    """Return iconv's name for the encoding of bytes that are not UTF-8, or None if it cannot be told."""
    if sample.startswith(tuple(UTF32_MARKS)):
        return "UTF-32"
    if b"\0" in sample:
        return _guess_wide(sample)
    high = sum(byte > 127 for byte in sample)
    if high > MAX_WESTERN_SHARE * len(sample):
        return None
    if any(0x80 <= byte < 0xA0 for byte in sample):
        return "WINDOWS-1252"
    return "ISO-8859-1"


def conversion_command(file: SourceFile, encoding: str | None) -> str:
    """Return the shell command that writes a copy of ``file`` in UTF-8. ``UTF-8`` itself drops what is invalid."""
    name = parse_file_name(file.path)
    target = shlex.quote(str(file.path.with_name(f"{name.stem}.utf8{name.suffix}")))
    options = "-c -f UTF-8" if encoding == "UTF-8" else f"-f {encoding or 'ENCODING'}"
    if unpack := unpack_command(file):
        return f"{unpack} | iconv {options} -t UTF-8 > {target}"
    return f"iconv {options} -t UTF-8 {shlex.quote(str(file.path))} > {target}"


def is_mostly_utf8(sample: bytes) -> bool:
    """Return whether more characters of ``sample`` are valid UTF-8 beyond ASCII than are invalid."""
    text = sample.decode("utf-8", "replace")
    invalid = text.count("\ufffd")
    return sum(character > "\x7f" for character in text) > 2 * invalid


def _guess_wide(sample: bytes) -> str | None:
    """Tell UTF-16 and UTF-32 without a mark by the places of their NUL bytes."""
    usable = sample[: len(sample) // 4 * 4]
    nuls = [usable[offset::4].count(0) for offset in range(4)]
    total = sum(nuls)
    if not usable or total < max(MIN_NULS, MIN_NUL_SHARE * len(usable)):
        return None
    quarter = len(usable) / 4
    if nuls[3] == quarter and nuls[2] > quarter / 2 and nuls[0] < quarter / 2:
        return "UTF-32LE"
    if nuls[0] == quarter and nuls[1] > quarter / 2 and nuls[3] < quarter / 2:
        return "UTF-32BE"
    even, odd = nuls[0] + nuls[2], nuls[1] + nuls[3]
    if even and odd:
        return None
    return "UTF-16BE" if even else "UTF-16LE"
