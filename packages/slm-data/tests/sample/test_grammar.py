"""The grammar of the built-in corpora: choices, macros, optional beats and paragraphs."""

import pytest

from slm_data.sample.grammar import fill, make_plot


def test_choices_macros_and_optional_beats_are_resolved() -> None:
    plot = make_plot("toy", "== one\n[A|B] <sound>\n== two maybe\n!\n== three with pet\n?\n-- x\nsound: moo", {})
    assert plot.tell(lambda: 0.0, "") == "A moo !"
    assert plot.tell(lambda: 0.9, "") == "B moo"
    assert plot.tell(lambda: 0.9, "pet") == "B moo ?"


def test_a_macro_with_two_definitions_makes_two_lines() -> None:
    assert list(fill("<a> or <b>", {"a": ["tea", "<b>"], "b": ["milk"]})) == ["tea or milk", "milk or milk"]


def test_an_undefined_macro_is_named_in_the_error() -> None:
    with pytest.raises(ValueError, match="<weather>"):
        list(fill("In <weather>", {}))


def test_a_slash_starts_a_paragraph() -> None:
    plot = make_plot("toy", "== one\nA / B\n== two\n/ C and/or D", {})
    assert plot.tell(lambda: 0.0, "") == "A\nB\nC and/or D"
