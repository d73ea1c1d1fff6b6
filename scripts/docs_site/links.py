"""Links between files of the repository, as links between pages of the site."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter

from docs_site.repository import ROOT, page_of

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^\s*(```+|~~~+)")


def site_links(text: str, source: str, page: str, repository: str | None) -> str:
    """Replace the relative links of a Markdown text; code blocks stay as they are.

    Args:
        text: The Markdown of ``source``.
        source: The path in the repository of the file that the links are relative to.
        page: The path in the site of the page that the text becomes.
        repository: The address at which files of the repository are shown. Without one, links to files that are not
            in the site become plain text. Links to files that do not exist stay, so that mkdocs reports them.
    """

    def replace(match: re.Match[str]) -> str:
        image, label, target = match.groups()
        address = _address(target, source, page, repository)
        return f"{image}[{label}]({address})" if address else label

    parts = groupby(lines_of(text.splitlines()), key=itemgetter(1))  # a link may go on in the next line
    texts = ((is_code, "\n".join(line for line, _ in lines)) for is_code, lines in parts)
    return "\n".join(part if is_code else _LINK.sub(replace, part) for is_code, part in texts)


def lines_of(lines: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Yield each line, and whether it belongs to a fenced block of code, fences included."""
    fence = ""
    for line in lines:
        match = _FENCE.match(line)
        yield line, bool(fence or match)
        if match and not fence:
            fence = match[1]
        elif match and line.strip() == fence:
            fence = ""


def _address(target: str, source: str, page: str, repository: str | None) -> str | None:
    path, _, anchor = target.partition("#")
    if not path or ":" in path:
        return target
    file = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    shown = page_of(file)
    if shown is None and not (ROOT / file).exists():
        return target
    if shown is None:
        return f"{repository.rstrip('/')}/{file}" if repository else None
    relative = posixpath.relpath(shown, posixpath.dirname(page) or ".")
    return f"{relative}#{anchor}" if anchor else relative
