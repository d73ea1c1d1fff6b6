"""Sections of other files inside a page: ``<!-- include: README.md#resume -->``, a path from the root."""

from __future__ import annotations

import re

from pymdownx.slugs import slugify

from docs_site.links import lines_of, site_links
from docs_site.repository import ROOT

_DIRECTIVE = re.compile(r"^<!-- include: (\S+?)(?:#(\S+))? -->$", re.MULTILINE)
_HEADING = re.compile(r"^(#+) (.*)$")
_slug = slugify(case="lower")


def expand_includes(text: str, page: str, repository: str | None) -> str:
    """Replace each directive by the file, or the content of its section, with links that suit ``page``."""

    def content(match: re.Match[str]) -> str:
        file, anchor = match.groups()
        included = (ROOT / file).read_text()
        return site_links(section(included, anchor) if anchor else _body(included), file, page, repository)

    return _DIRECTIVE.sub(content, text)


def section(text: str, anchor: str) -> str:
    """Return what is below the heading with this anchor, up to the next heading of its level or above.

    Raises:
        ValueError: If there is no such heading.
    """
    kept: list[str] | None = None
    level = 0
    for line, is_code in lines_of(text.splitlines()):
        heading = None if is_code else _HEADING.match(line)
        if heading and kept is not None and len(heading[1]) <= level:
            break
        if kept is not None:
            kept.append(line)
        elif heading and _slug(heading[2], "-") == anchor:
            kept, level = [], len(heading[1])
    if kept is None:
        raise ValueError(f"no heading has the anchor #{anchor}; name one that the file has")
    return "\n".join(kept).strip()


def _body(text: str) -> str:
    """Return a file without its title."""
    return text.partition("\n")[2] if text.startswith("# ") else text
