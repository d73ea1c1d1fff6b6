"""What the grammar of an answer with calls contains."""

from typing import Any

import pytest
from transformers import AutoTokenizer

from slm_data import ChatTemplate, sample_base
from slm_kv import Grammar, GrammarCompiler
from slm_serve.http.schemas.tools import FunctionDefinition
from slm_serve.http.tools.call_format import call_format
from slm_serve.http.tools.call_grammar import call_grammar
from slm_testing.data.tool_templates import TOOL_FAMILIES

FUNCTIONS = [
    FunctionDefinition(name="f", parameters={"properties": {"a": {"const": 1}}, "required": ["a"]}),
    FunctionDefinition(name="f2"),
]


class Language:
    """The texts of a grammar, spelled in the tokens of a family's vocabulary."""

    def __init__(self, family: str, **options: Any) -> None:
        templates = TOOL_FAMILIES[family]
        self.tokenizer = AutoTokenizer.from_pretrained(sample_base(), additional_special_tokens=list(templates.tokens))
        form = call_format(ChatTemplate(family, templates.source), self.tokenizer)
        special_ids = {str(t): id for id, t in self.tokenizer.added_tokens_decoder.items() if t.special}
        arguments: dict[str, Any] = {"required": False, "parallel": True} | options
        self.grammar = call_grammar(FUNCTIONS, form, special_ids, **arguments)
        self.compiler = GrammarCompiler(self.tokenizer, len(self.tokenizer))

    def ends(self, text: str) -> bool | None:
        """Whether a text may end where it does; None if it is not even the beginning of one in the language."""
        state = self.compiler.start(self.grammar, (1,), (1,), False)
        assert state is not None
        for token in self.tokenizer(text, add_special_tokens=False)["input_ids"]:
            if not state.allowed_V[token]:
                return None
            state.advance(token)
        return state.complete or bool(state.allowed_V[1])


@pytest.mark.parametrize("family", TOOL_FAMILIES)
def test_free_answers_are_texts_or_calls(family: str) -> None:
    language, form = Language(family), TOOL_FAMILIES[family]
    assert language.ends("Hello { there }\n")
    assert language.ends(form.one)
    assert form.two is None or language.ends(form.two)
    assert language.ends(form.one.replace('"a"', '"b"')) is None
    assert language.ends(form.one.replace("1", "2")) is None
    assert language.ends(form.one[:-1]) is not True
    assert language.ends(form.one + "more") is None
    before = "I will look.\n" + form.one
    assert language.ends(before) is True  # calls that begin like JSON are a part of the text there


@pytest.mark.parametrize("family", TOOL_FAMILIES)
def test_required_answers_are_calls(family: str) -> None:
    language, form = Language(family, required=True, parallel=False), TOOL_FAMILIES[family]
    assert language.ends("Hello") is None
    assert language.ends(form.one)
    assert form.two is None or language.ends(form.two) is None


@pytest.mark.parametrize("family", TOOL_FAMILIES)
def test_a_format_replaces_free_texts(family: str) -> None:
    language = Language(family, answer=Grammar.from_schema({"enum": ["yes"]}))
    assert language.ends("Hello") is None
    assert language.ends('"yes"')
    assert language.ends(TOOL_FAMILIES[family].one)


def test_a_spelled_out_end_of_the_turn_may_follow_calls() -> None:
    form = TOOL_FAMILIES["hermes"]
    language = Language("hermes", end="<|end|>")
    assert language.ends(form.one)
    assert language.ends(form.one + "<|end|>")
    assert language.ends(form.one + "<|end|>\n") is None


def test_a_function_without_parameters_has_no_arguments() -> None:
    language = Language("hermes", required=True)
    assert language.ends('<tool_call>\n{"name": "f2", "arguments": {}}\n</tool_call>')
    assert language.ends('<tool_call>\n{"name": "f2", "arguments": {"a": 1}}\n</tool_call>') is None
