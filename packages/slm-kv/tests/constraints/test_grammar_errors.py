"""A grammar that cannot be followed exactly is refused in one sentence that names the cause."""

from collections.abc import Iterator
from typing import Any

import pytest
from llguidance import LLParserLimits
from transformers import LlamaConfig, LlamaForCausalLM

from slm_kv import Engine, Grammar, GrammarError, KVError, SamplingParams
from slm_kv.constraints import compiler, matcher
from slm_testing.kv.small_tokenizers import byte_level, word_pieces
from slm_testing.kv.tiny_models import GROUPED_HEADS, SIZES


def make_engine(tokenizer: Any) -> Engine:
    return Engine(LlamaForCausalLM(LlamaConfig(**SIZES | {"vocab_size": 400}, **GROUPED_HEADS)), tokenizer)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with make_engine(byte_level()) as engine:
        yield engine


UNSUPPORTED: dict[str, dict[str, Any]] = {
    "uniqueItems": {"type": "array", "uniqueItems": True},
    "not": {"not": {"type": "string"}},
    "then": {"if": {"type": "string"}, "then": {"const": "a"}},
    "contains": {"type": "array", "contains": {"type": "integer"}},
    "propertyNames": {"type": "object", "propertyNames": {"pattern": "a"}},
    "dependentRequired": {"type": "object", "dependentRequired": {"a": ["b"]}},
    "unevaluatedProperties": {"type": "object", "unevaluatedProperties": False},
    "$dynamicRef": {"$dynamicRef": "#a"},
    "oneOf": {"oneOf": [{"type": "integer"}, {"type": "number"}]},
    "patternProperty": {"type": "object", "patternProperties": {"a": {"type": "integer"}, "b": {}}},
    "minProperties": {"type": "object", "properties": {"a": {}, "b": {}}, "minProperties": 2},
    "format that is not supported: fun": {"type": "string", "format": "fun"},
    "pattern": {"type": "string", "pattern": "a(?=b)"},
    "another document, which is not supported: https://example.org": {"$ref": "https://example.org/a.json"},
    "#/$defs/a, which does not exist": {"$ref": "#/$defs/a"},
    "Invalid type: text": {"type": "text"},
    "required": {"type": "object", "required": "a"},
    "cannot be satisfied: minimum": {"type": "integer", "minimum": 3, "maximum": 2},
    "cannot be satisfied: incompatible types": {"allOf": [{"type": "string"}, {"type": "integer"}]},
    "cannot be satisfied: required property": {"type": "object", "required": ["a"], "additionalProperties": False},
    "cannot be satisfied: no token": {"$ref": "#"},
}


@pytest.mark.parametrize("part", UNSUPPORTED)
@pytest.mark.parametrize("nested", [False, True])
def test_a_schema_is_refused_by_the_name_of_the_keyword(engine: Engine, part: str, nested: bool) -> None:
    schema = UNSUPPORTED[part]
    if nested and "#" not in str(schema.get("$ref")) and "satisfied" not in part:
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    # Options of llguidance that the schema brings along could make it ignore keywords, or write something else.
    schema |= {"x-guidance": {"lenient": True, "key_separator": "="}}
    with pytest.raises(GrammarError) as caught:
        engine.check([1, 2], SamplingParams(max_new_tokens=9, grammar=Grammar.from_schema(schema)))
    message = str(caught.value)
    assert message.startswith("the JSON schema")
    assert part in message
    assert "\n" not in message
    assert len(message) < 200


def test_annotations_and_unknown_words_in_a_schema_are_allowed(engine: Engine) -> None:
    schema = {"type": "integer", "title": "T", "description": "d", "default": 3, "examples": [1], "deprecated": True}
    schema |= {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "http://a/b", "$comment": "c"}
    schema |= {"readOnly": True, "discriminator": {"propertyName": "kind"}, "x-order": 1}
    engine.check([1, 2], SamplingParams(max_new_tokens=9, grammar=Grammar.from_schema(schema)))


@pytest.mark.parametrize(
    ("kind", "text", "part"),
    [
        ("json", "{}", "'json' is not one of json_schema, json_object, regex, choice, lark"),
        ("json_schema", "{", "is not JSON"),
        ("json_schema", "[1]", "neither an object nor true or false"),
        ("json_schema", "[" * 50_000, "is not JSON"),
        ("json_schema", "false", "cannot be satisfied"),
        ("json_object", "{}", "needs no text"),
        ("regex", "", "needs a text"),
        ("regex", "a{0}", "only the empty text"),
        ("regex", "(a", "unclosed group"),
        ("regex", r"(a)\1", "backreferences are not supported"),
        ("regex", r"\bfoo", "anchor or look-around"),
        ("regex", "a" * 100_001, "100,001 characters"),
        ("choice", "[]", "not a list of at least one string"),
        ("choice", '"yes"', "not a list of at least one string"),
        ("choice", '["a", ""]', "one of the choices is empty"),
        ("lark", "start: foo", "unknown name"),
        ("lark", "this is no grammar", "cannot be used"),
        ("lark", "root ::= ((", "cannot be read"),
        ("lark", 'start: a\na: a "x"', "cannot be satisfied"),
    ],
)
def test_other_grammars_are_refused_with_the_reason(engine: Engine, kind: Any, text: str, part: str) -> None:
    with pytest.raises(GrammarError) as caught:
        engine.check([1, 2], SamplingParams(max_new_tokens=9, grammar=Grammar(kind, text)))
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_schema_that_is_nested_too_deeply_is_refused(engine: Engine) -> None:
    schema: dict[str, Any] = {}
    for _ in range(400):
        schema = {"items": schema}
    with pytest.raises(GrammarError):
        engine.check([1, 2], SamplingParams(max_new_tokens=9, grammar=Grammar.from_schema(schema)))


def test_a_grammar_that_becomes_too_complex_ends_its_request_only(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matcher, "_LIMITS", LLParserLimits(verbose_errors=False, step_max_items=2000))
    ambiguous = Grammar("lark", "start: s\ns: s s s | s s | /[a-z ]/ |")
    params = SamplingParams(max_new_tokens=40, grammar=ambiguous, seed=0, ignore_eos=True)
    handles = [engine.submit([1, 2], params), engine.submit([1, 2], SamplingParams(max_new_tokens=40, ignore_eos=True))]
    while engine.busy:
        engine.step()
    assert [handle.finish_reason for handle in handles] == ["error", "length"]
    assert str(handles[0].error).endswith("is too complex; simplify it")


def test_a_grammar_in_the_syntax_of_llama_cpp_is_converted(engine: Engine) -> None:
    engine.check([1, 2], SamplingParams(max_new_tokens=9, grammar=Grammar("lark", 'root ::= "yes" | "no" [0-9]+')))


def test_a_tokenizer_that_joins_words_in_its_own_way_is_refused() -> None:
    with make_engine(word_pieces()) as engine, pytest.raises(GrammarError, match="its decoder WordPiece joins tokens"):
        engine.check([1, 2], SamplingParams(max_new_tokens=9, grammar=Grammar("json_object")))


def test_without_a_tokenizer_grammars_are_refused() -> None:
    with make_engine(None) as engine, pytest.raises(GrammarError, match="the engine has no fast tokenizer"):
        engine.check([1, 2], SamplingParams(max_new_tokens=9, grammar=Grammar("json_object")))


def test_without_llguidance_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "import_optional", lambda name: None)
    with make_engine(byte_level()) as engine, pytest.raises(GrammarError, match=r"pip install 'slm-kv\[structured\]'"):
        engine.compile_grammar(Grammar("json_object"))


def test_grammars_are_compiled_once_and_only_the_latest_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    with make_engine(byte_level()) as engine:
        monkeypatch.setattr(compiler, "MAX_COMPILED", 2)
        grammars = [Grammar("regex", letter) for letter in "abc"]
        matchers = [engine._grammars.compile(grammar) for grammar in grammars]
        assert engine._grammars.compile(grammars[1]) is matchers[1]
        assert engine._grammars.compile(grammars[2]) is matchers[2]
        assert engine._grammars.compile(grammars[0]) is not matchers[0]


@pytest.mark.parametrize("bias", [((400, 1.0),), ((-1, 1.0),)])
def test_a_bias_outside_the_vocabulary_is_refused(engine: Engine, bias: Any) -> None:
    with pytest.raises(KVError, match=r"logit_bias is outside the vocabulary of 400"):
        engine.check([1, 2], SamplingParams(max_new_tokens=9, logit_bias=bias))


@pytest.mark.parametrize("bias", [((1, 101),), ((1, "2"),), (("1", 2),), ((1,),), 5, ((True, 1),)])
def test_a_bias_that_is_no_number_from_minus_100_to_100_is_refused(bias: Any) -> None:
    with pytest.raises(KVError, match=r"logit_bias=.* is out of range"):
        SamplingParams(logit_bias=bias)
