"""Joining the rows of WikiText, which are lines, into articles."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain, pairwise

# Matches " = Title = ", but not " = = Section = = ".
ARTICLE_HEADING = re.compile(r" = (?!= ).+(?<! =) = \n?")


def articles(rows: Iterable[str]) -> Iterator[str]:
    """Join rows into articles; every byte is kept.

    A heading starts an article only between blank lines: WikiText breaks some sentences so that a formula such as
    "= 1 rad / s =" is a line of its own.
    """
    article: list[str] = []
    previous = ""
    for row, following in pairwise(chain(rows, [""])):
        if ARTICLE_HEADING.fullmatch(row) and not previous.strip() and not following.strip():
            yield "".join(article)
            article = []
        article.append(row)
        previous = row
    yield "".join(article)
