"""WikiText's lines as articles."""

from hypothesis import given
from hypothesis import strategies as st

from slm_data.sources.wikitext import articles

LINES = [
    "",
    " = One = \n",
    "",
    " Text = text . \n",
    " = = Part = = \n",
    "",
    " = A = B = \n",
    "",
    " = = = X = = = \n",
]


def test_wikitext_articles_start_only_at_headings_and_keep_every_byte() -> None:
    whole = [article for article in articles(LINES) if article]
    assert whole == ["".join(LINES[1:6]), "".join(LINES[6:])]


@given(st.lists(st.sampled_from([*LINES, " \n", " = 1 rad = \n"])))
def test_wikitext_articles_are_their_lines(lines: list[str]) -> None:
    assert "".join(articles(lines)) == "".join(lines)
