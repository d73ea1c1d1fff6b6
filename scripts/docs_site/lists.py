"""Lists as code hosts read them, in the stricter form that Python-Markdown needs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from docs_site.links import lines_of

_ITEM = re.compile(r"^( *)([-*+]|\d+[.)])( +)\S")
_INDENT = 4  # what Python-Markdown expects of everything inside an item


def indent_lists(text: str) -> str:
    """Indent the content of list items by four spaces, and separate lists from the paragraph above.

    CommonMark, which code hosts render, indents content by the width of the item's marker, and needs no blank line.
    """
    reader = _Reader()
    for line, is_code in lines_of(text.splitlines()):
        reader.add(line, is_code)
    return "\n".join(reader.lines)


@dataclass
class _Reader:
    lines: list[str] = field(default_factory=list)
    items: list[int] = field(default_factory=list)  # the columns at which the content of the open items begins

    def add(self, line: str, is_code: bool) -> None:
        if not line.strip():
            self.lines.append(line)
            return
        indent = len(line) - len(line.lstrip(" "))
        item = None if is_code else _ITEM.match(line)
        follows_text = bool(self.lines) and bool(self.lines[-1].strip())
        if item or is_code or not follows_text:  # any other line continues the paragraph above, however it is indented
            self._close(indent)
        if item and follows_text and not self.items and not _ITEM.match(self.lines[-1]):
            self.lines.append("")
        shift = _INDENT * len(self.items) - (self.items[-1] if self.items else 0)
        self.lines.append(" " * max(0, indent + shift) + line.lstrip(" "))
        if item:
            self.items.append(len(item[1]) + len(item[2]) + len(item[3]))

    def _close(self, indent: int) -> None:
        """Close the items whose content lies further right than ``indent``."""
        while self.items and indent < self.items[-1]:
            self.items.pop()
