"""The held-out validation split."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_data.sources.holdout import cut_end, mark_documents


@given(count=st.integers(0, 200), window=st.integers(2, 40), seed=st.integers(0, 9))
def test_each_text_is_in_one_part_in_order_and_one_of_every_window_is_held_out(
    count: int, window: int, seed: int
) -> None:
    texts = [str(number) for number in range(count)]
    marked = list(mark_documents(texts, window, seed))
    assert [text for text, _ in marked] == texts
    for start in range(0, count, window):
        held_out = sum(is_held_out for _, is_held_out in marked[start : start + window])
        assert held_out == 1 or (held_out == 0 and count - start < window)


def test_the_split_depends_on_the_seed_alone() -> None:
    texts = [str(number) for number in range(100)]
    assert list(mark_documents(texts, 20, 1)) == list(mark_documents(texts, 20, 1))
    assert list(mark_documents(texts, 20, 1)) != list(mark_documents(texts, 20, 2))


@given(text=st.text("ab \n"), window=st.integers(2, 40))
def test_a_text_that_is_cut_loses_nothing_and_both_parts_have_words(text: str, window: int) -> None:
    parts = cut_end(text, window)
    if parts is not None:
        assert "".join(parts) == text
        assert all(part.strip() for part in parts)
        assert len(parts[1].rstrip()) <= len(text.rstrip()) / 2 + 1


@pytest.mark.parametrize(
    ("text", "end"),
    [
        (
            "\n".join(f"line {number}" for number in range(100)) + "\n",
            "\n".join(f"line {n}" for n in range(95, 100)) + "\n",
        ),
        ("a title\n" + "word " * 100, "word " * 6),
        ("def f():\n\treturn 1\n\n\ndef g():\n\treturn 2\n", "\treturn 2\n"),
    ],
)
def test_the_end_of_a_text_starts_with_a_line_or_a_word(text: str, end: str) -> None:
    parts = cut_end(text, 20)
    assert parts is not None
    assert parts[1] == end


@pytest.mark.parametrize("text", ["", "word", "two words"])
def test_a_text_that_is_too_short_is_not_cut(text: str) -> None:
    assert cut_end(text, 20) is None
