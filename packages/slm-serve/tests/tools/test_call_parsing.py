"""Whatever the pieces in which a text arrives, its content and its calls are the same."""

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from slm_data import ChatTemplate, sample_base
from slm_serve.http.tools.call_format import CallFormat, call_format
from slm_serve.http.tools.parsing import CallParser
from slm_testing.data.tool_templates import TOOL_FAMILIES

FORMS: dict[str, CallFormat] = {}
for family_name, family in TOOL_FAMILIES.items():
    tokenizer: Any = AutoTokenizer.from_pretrained(sample_base(), additional_special_tokens=list(family.tokens))
    FORMS[family_name] = call_format(ChatTemplate(family_name, family.source), tokenizer)

values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('ab"\\{}[]<é', max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text('a"}', max_size=3), inner, max_size=2),
    max_leaves=5,
)
calls = st.tuples(st.sampled_from(["f", "get_weather"]), st.dictionaries(st.text("ab", max_size=3), values, max_size=2))
contents = st.text("ab<{[t \n", max_size=12)


def parse(form: CallFormat, pieces: list[str]) -> tuple[str, list[tuple[str, str]], bool]:
    """Return the content, the calls and whether they are whole."""
    parser, content, found = CallParser(form), "", list[tuple[str, str]]()
    read = [piece for text in pieces for piece in parser.push(text)] + parser.finish()
    for piece in read:
        if piece.kind == "content":
            assert not found, "content after calls"
            content += piece.text
        elif piece.kind == "call":
            found.append((piece.text, ""))
        else:
            found[-1] = (found[-1][0], found[-1][1] + piece.text)
    assert parser.calls == len(found)
    return content, found, parser.complete


def cut(text: str, cuts: list[int]) -> list[str]:
    places = sorted({place % (len(text) + 1) for place in cuts})
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


@pytest.mark.parametrize("name", FORMS)
@settings(max_examples=80, deadline=None)
@given(content=contents, called=st.lists(calls, max_size=3), cuts=st.lists(st.integers(0, 400), max_size=30))
def test_calls_are_found_in_any_pieces(name: str, content: str, called: list[tuple[str, Any]], cuts: list[int]) -> None:
    form = FORMS[name]
    called = called[:1] if form.separator is None else called
    if called and not form.marker:  # such calls follow no text
        content = ""
    written = [function + form.middle + json.dumps(arguments) for function, arguments in called]
    text = content + (form.prefix + (form.separator or "").join(written) + form.suffix if called else "")
    parsed, found, complete = parse(form, cut(text, cuts))
    assert parsed == (content.rstrip() if called else content)
    assert [(function, json.loads(arguments)) for function, arguments in found] == called
    assert complete


@pytest.mark.parametrize("name", FORMS)
def test_a_text_that_is_cut_off_has_a_part_of_its_calls(name: str) -> None:
    form, whole = FORMS[name], TOOL_FAMILIES[name].one
    for length in range(len(whole)):
        content, found, complete = parse(form, list(whole[:length]))
        if found:
            assert (content, found[0][0]) == ("", "f")
            assert '{"a": 1}'.startswith(found[0][1])
            assert complete == (found[0][1] == '{"a": 1}')
        else:
            assert whole[:length].startswith(content)


def test_json_in_a_text_is_no_call() -> None:
    text = 'The object {"name": "f", "parameters": {}} is JSON.'
    assert parse(FORMS["llama"], list(text)) == (text, [], True)
    assert re.sub(r"\s", "", "".join(parse(FORMS["mistral"], list(text))[0])) == re.sub(r"\s", "", text)
