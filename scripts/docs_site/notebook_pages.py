"""Notebooks as Markdown: text, code, and the outputs that are stored in them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat

_COLUMNS = 84
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def notebook_page(file: Path) -> str:
    """Return a notebook as Markdown, with a link to the file itself below the title."""
    cells = nbformat.read(file, as_version=4).cells
    blocks = [block for cell in cells for block in _cell(cell)]
    blocks.insert(1, f'<a class="md-button" href="../{file.name}" download>Download the notebook</a>')
    return "\n\n".join(blocks)


def _cell(cell: Any) -> Iterator[str]:
    if cell.cell_type == "markdown":
        yield from cell.source.split("\n\n")
    elif cell.cell_type == "code":
        yield _fenced(cell.source, "python")
        text = "".join(_output(output) for output in cell.outputs).rstrip()
        if text:
            yield _fenced(text, "text")


def _output(output: Any) -> str:
    """Return the text of an output, wrapped; HTML, such as a bar of progress, has none."""
    text = output.text if output.output_type == "stream" else output.get("data", {}).get("text/plain", "")
    if text.startswith("<IPython.core.display"):
        return ""
    return "\n".join(_wrapped(line) for line in _COLOURS.sub("", text).split("\n"))


def _wrapped(line: str) -> str:
    if len(line) <= _COLUMNS:
        return line
    return textwrap.fill(line, _COLUMNS, break_long_words=False, break_on_hyphens=False)


def _fenced(text: str, language: str) -> str:
    return f"````{language}\n{text}\n````"
