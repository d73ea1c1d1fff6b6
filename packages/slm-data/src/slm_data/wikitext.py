"""WikiText's rows are lines; its documents are articles."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain, pairwise

# " = Title = ", and not " = = Section = = ".
HEADING = re.compile(r" = (?!= ).+(?<! =) = \n?")


def articles(rows: Iterable[str]) -> Iterator[str]:
    """Join lines to articles, every byte kept. An article opens at a heading between blank lines:
    WikiText breaks some sentences so that "= 1 rad / s =" stands on a line of its own."""
    article: list[str] = []
    before = ""
    for row, after in pairwise(chain(rows, [""])):
        if HEADING.fullmatch(row) and not before.strip() and not after.strip():
            yield "".join(article)
            article = []
        article.append(row)
        before = row
    yield "".join(article)
