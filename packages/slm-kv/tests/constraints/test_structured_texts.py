"""Texts under a grammar belong to its language, with any tokenizer, engine and setting."""

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from slm_kv import Engine, Grammar, Handle, SamplingParams, TextEngine, TransformersEngine
from slm_testing.kv.small_tokenizers import byte_level, characters, metaspace, unigram
from slm_testing.kv.tiny_models import GROUPED_HEADS, SIZES, randomize, run_to_end

TOKENIZERS = {"byte level": byte_level(), "metaspace": metaspace(), "unigram": unigram(), "characters": characters()}
PADDING = 23  # rows of the embeddings beyond the tokenizer
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "kind": {"enum": ["cat", "dog"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}
GRAMMARS = [
    Grammar.from_schema(PERSON),
    Grammar("regex", r"[a-c]{2,4}(-[0-9]{2})?!"),  # not \d: llguidance knows digits of a newer Unicode than Python
    Grammar.from_choices(["yes", "no", "yes, but"]),
    Grammar("lark", 'start: ("ab" | "c"){1,3} "."'),
]


def make_engine(tokenizer: PreTrainedTokenizerFast, kind: type[TextEngine] = Engine, **options: Any) -> Any:
    sizes = SIZES | {"vocab_size": len(tokenizer) + PADDING, "max_position_embeddings": 512}
    sizes |= {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    torch.manual_seed(0)
    model = randomize(LlamaForCausalLM(LlamaConfig(**sizes, **GROUPED_HEADS)).eval())
    return kind(model, tokenizer, **options)


@pytest.fixture(scope="module", params=TOKENIZERS)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with make_engine(TOKENIZERS[request.param], max_sequences=8) as engine:
        yield engine


def run(engine: TextEngine, grammar: Grammar, prompt: str = "the cat", **options: Any) -> Handle:
    params = SamplingParams(**{"max_new_tokens": 150, "temperature": 1.0, "seed": 0, "grammar": grammar} | options)
    return engine.generate([prompt], params)[0]


def is_in(grammar: Grammar, text: str) -> bool:
    if grammar.kind == "json_schema":
        jsonschema.validate(json.loads(text), grammar.data)
        return True
    if grammar.kind == "lark":
        return re.fullmatch(r"(ab|c){1,3}\.", text) is not None
    return text in grammar.data if grammar.kind == "choice" else re.fullmatch(grammar.text, text) is not None


OPTIONS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 1.5, "top_p": 0.9, "top_k": 40},
    {"repetition_penalty": 1.3, "frequency_penalty": 1.0},
    {"temperature": 0, "presence_penalty": 2.0},
    {"min_new_tokens": 100},
    {"ignore_eos": True},
    {"logprobs": 3, "prompt_logprobs": 1},
    {"logit_bias": ((5, 20.0), (7, -100.0))},
]


@pytest.mark.parametrize("options", OPTIONS, ids=[" ".join(options) for options in OPTIONS])
@pytest.mark.parametrize("grammar", GRAMMARS, ids=lambda grammar: grammar.kind)
def test_a_finished_text_is_in_the_language_whatever_the_settings(
    engine: Engine, grammar: Grammar, options: dict[str, Any]
) -> None:
    handle = run(engine, grammar, **options)
    assert handle.finish_reason == "stop", handle.error
    assert is_in(grammar, handle.text)
    assert engine.tokenizer is not None
    assert max(handle.token_ids) < len(engine.tokenizer)


@pytest.mark.parametrize("name", ["byte level", "metaspace"])
def test_characters_of_several_tokens_are_whole(name: str) -> None:
    choices = ["你好", "👍🏽é", 'naïve "\\"']
    with make_engine(TOKENIZERS[name]) as engine:
        for seed in range(8):
            handle = run(engine, Grammar.from_choices(choices), seed=seed)
            assert handle.text in choices


def test_thousands_of_choices_of_which_some_begin_like_others_can_be_given() -> None:
    choices = [str(number) for number in range(5000)]
    with make_engine(TOKENIZERS["byte level"]) as engine:
        for seed in range(4):
            assert run(engine, Grammar.from_choices(choices), seed=seed).text in choices


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("kind", [Engine, TransformersEngine])
def test_both_engines_follow_grammars_with_and_without_a_cache(kind: type[TextEngine], use_cache: bool) -> None:
    with make_engine(TOKENIZERS["byte level"], kind) as engine:
        params = SamplingParams(max_new_tokens=60, temperature=0, grammar=GRAMMARS[1])
        handle = engine.submit("the cat", params, use_cache=use_cache)
        while engine.busy:
            engine.step()
        assert handle.finish_reason == "stop"
        assert is_in(GRAMMARS[1], handle.text)


def test_each_text_of_a_batch_is_the_one_it_would_be_alone_even_after_preemption() -> None:
    with make_engine(TOKENIZERS["byte level"], max_pages=12, page_size=4, max_sequences=4) as engine:
        params = [SamplingParams(max_new_tokens=25, temperature=0, grammar=grammar) for grammar in [*GRAMMARS, None]]
        alone = [engine.generate(["the cat sat"], each)[0] for each in params]
        assert engine.load().preemptions == 0
        together = [engine.submit("the cat sat", each) for each in params]
        run_to_end(engine)
        assert engine.load().preemptions > 0
    assert [handle.token_ids for handle in together] == [handle.token_ids for handle in alone]
    assert [handle.finish_reason for handle in together] == [handle.finish_reason for handle in alone]


scalars = st.one_of(st.integers(-9, 9), st.booleans(), st.none(), st.text('abc "\\\n', max_size=3))
leaves = st.one_of(
    st.just({"type": "integer", "minimum": -5, "maximum": 12}),
    st.just({"type": ["boolean", "null"]}),
    st.integers(0, 2).map(lambda least: {"type": "string", "minLength": least, "maxLength": least + 3}),
    st.just({"type": "string", "pattern": "^[a-d]{1,3}$"}),
    st.lists(scalars, min_size=1, max_size=3).map(lambda values: {"enum": values}),
    scalars.map(lambda value: {"const": value}),
)


def arrays(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    bounds = st.tuples(items, st.integers(0, 2), st.integers(0, 1))
    return bounds.map(lambda b: {"type": "array", "items": b[0], "minItems": b[1], "maxItems": b[1] + b[2]})


def objects(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    properties = st.dictionaries(st.text('ab "', min_size=1, max_size=3), values, max_size=3)
    return properties.flatmap(
        lambda members: st.lists(st.sampled_from(sorted(members) or ["a"]), unique=True).map(
            lambda required: {
                "type": "object",
                "properties": members,
                "required": [name for name in required if name in members],
                "additionalProperties": False,
            }
        )
    )


schemas = st.recursive(
    leaves,
    lambda inner: arrays(inner) | objects(inner) | st.lists(inner, min_size=1, max_size=2).map(lambda s: {"anyOf": s}),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(schema=schemas, seed=st.integers(0, 99), temperature=st.sampled_from([0.0, 0.7, 2.0]))
def test_what_ends_under_a_random_schema_is_valid_json(
    engine: Engine, schema: dict[str, Any], seed: int, temperature: float
) -> None:
    handle = run(engine, Grammar.from_schema(schema), seed=seed, temperature=temperature)
    assert handle.finish_reason in ("stop", "length"), handle.error
    if handle.finish_reason == "stop":
        jsonschema.validate(json.loads(handle.text), schema)
    else:
        assert len(handle.token_ids) == 150
