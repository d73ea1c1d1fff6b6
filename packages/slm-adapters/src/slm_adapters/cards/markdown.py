"""Markdown from texts of any content: escaped text, quotes, tables, code."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# Characters that can begin or end markup or HTML anywhere in a line. "|" is for tables.
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~&$@])")
_LINE_START = re.compile(r"^(\d{1,9})([.)])(?=\s|$)|^([-+=])")  # lists, rules, underlines of headings
_LINK = re.compile(r"(?i)(https?|ftp|mailto)(:)|(www)(\.)")  # GitHub's dialect links these without markup
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029]")


def escape(text: str) -> str:
    """Return one line of Markdown that shows ``text`` as it is; white space is normalised."""
    return _escape_line(" ".join(_CONTROL.sub(" ", text).split()))


def quote(text: str) -> str:
    """Return a block quote that shows ``text`` as it is, with its line breaks and indentation."""
    text = _CONTROL.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))
    lines = [_quoted_line(line) for line in text.strip("\n").split("\n")]
    # A backslash at the end of a line is a line break, but at the end of a paragraph it is a backslash.
    breaks = ["\\" if line and following else "" for line, following in zip(lines, [*lines[1:], ""], strict=True)]
    return "\n".join(f"> {line}{end}".rstrip() for line, end in zip(lines, breaks, strict=True))


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False) -> str:
    """Return a table of cells that are Markdown; with ``numbers``, columns after the first are aligned right."""
    lines = [header, ["---", *("---:" if numbers else "---" for _ in header[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code_block(code: str, language: str) -> str:
    """Return a code block, fenced by more backticks than ``code`` has in a row."""
    longest = max((len(run) for run in re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{code.rstrip()}\n{fence}"


def _quoted_line(line: str) -> str:
    if not line.strip():
        return ""
    content = line.expandtabs(4).rstrip()
    indent = len(content) - len(content.lstrip(" "))
    return "&nbsp;" * indent + _escape_line(content.lstrip(" "))


def _escape_line(line: str) -> str:
    line = _MARKUP.sub(r"\\\1", line)
    line = _LINE_START.sub(lambda match: rf"{match[1]}\{match[2]}" if match[1] else rf"\{match[3]}", line)
    return _LINK.sub(lambda match: rf"{match[1] or match[3]}\{match[2] or match[4]}", line)
