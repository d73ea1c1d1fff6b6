"""Where a text under a grammar ends, and what its tokens are."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from slm_kv import Engine, Grammar, Handle, SamplingParams
from slm_testing.kv.small_tokenizers import END, byte_level
from slm_testing.kv.tiny_models import GROUPED_HEADS, SIZES

TOKENIZER = byte_level()
END_ID = TOKENIZER.convert_tokens_to_ids(END)


class Favourite(LlamaForCausalLM):
    """A model whose likeliest tokens are ``favourites``, in this order."""

    favourites: tuple[int, ...] = ()

    def forward(self, *args: Any, **options: Any) -> Any:
        outputs = super().forward(*args, **options)
        logits: Tensor = torch.zeros_like(outputs.logits)
        for rank, token in enumerate(reversed(self.favourites), start=1):
            logits[..., token] = float(rank)
        outputs.logits = logits
        return outputs


def ids(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER.convert_tokens_to_ids(list(text)))


@pytest.fixture(scope="module", params=[END_ID, None], ids=["with an end token", "without"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    sizes = SIZES | {"vocab_size": 400, "eos_token_id": request.param, "bos_token_id": None}
    model = Favourite(LlamaConfig(**sizes, **GROUPED_HEADS)).eval()
    tokenizer = byte_level()
    if request.param is None:
        tokenizer.eos_token = None
    with Engine(model, tokenizer) as engine:
        yield engine


def run(engine: Engine, favourites: tuple[int, ...], grammar: Grammar | None, **options: Any) -> Handle:
    Favourite.favourites = favourites
    params = SamplingParams(max_new_tokens=6, temperature=0, grammar=grammar, **options)
    return engine.generate([[3, 4]], params)[0]


def test_a_complete_text_ends_by_itself(engine: Engine) -> None:
    handle = run(engine, ids("ab"), Grammar("regex", "ab?c"))
    assert (handle.text, handle.finish_reason) == ("abc", "stop")
    assert END_ID not in handle.token_ids


def test_the_end_token_is_possible_only_where_the_grammar_may_end(engine: Engine) -> None:
    handle = run(engine, (END_ID, *ids("a")), Grammar("regex", "b{2}a*"))
    assert handle.text == ("bb" if engine._vocabulary.end_ids else "bbaaaa")
    assert handle.finish_reason == ("stop" if engine._vocabulary.end_ids else "length")


def test_past_the_end_token_if_it_is_ignored(engine: Engine) -> None:
    handle = run(engine, (END_ID, *ids("a")), Grammar("regex", "b{2}a*"), ignore_eos=True)
    assert (handle.text, handle.finish_reason) == ("bbaaaa", "length")


def test_the_end_token_waits_for_the_least_number_of_tokens(engine: Engine) -> None:
    handle = run(engine, (END_ID, *ids("a")), Grammar("regex", "b{2}a*"), min_new_tokens=4)
    assert handle.text.startswith("bbaa")


def test_max_new_tokens_cuts_a_text_off(engine: Engine) -> None:
    handle = run(engine, ids("a"), Grammar("regex", "a{9}"))
    assert (handle.text, handle.finish_reason) == ("aaaaaa", "length")


def test_stop_strings_and_stop_tokens_end_the_text_as_without_a_grammar(engine: Engine) -> None:
    grammar = Grammar("regex", "[ab]{3}c*d")
    assert run(engine, ids("abc"), grammar, stop="aa").text == ""
    assert run(engine, ids("bac"), grammar, stop_token_ids=ids("c")).text == "bbb"


def test_special_tokens_and_ids_beyond_the_tokenizer_are_no_text(engine: Engine) -> None:
    favourites = (399, END_ID, *ids("x"))
    handle = run(engine, favourites, Grammar("regex", "(?s:.)*x{3}y"))
    assert set(handle.token_ids) == set(ids("x"))


def test_a_bias_of_100_forces_and_of_minus_100_bans(engine: Engine) -> None:
    a, b, c = ids("abc")
    assert run(engine, (a, b), None, logit_bias=((b, 100), (a, 99))).token_ids == [b] * 6
    assert run(engine, (a, b), None, logit_bias=((a, -100),)).token_ids == [b] * 6
    assert run(engine, (a, b), None, logit_bias=((b, 1.5),)).token_ids == [b] * 6
    assert run(engine, (a, b), None, logit_bias=((b, 0.5),)).token_ids == [a] * 6
    handle = run(engine, (a, b), Grammar("regex", "[bc]{3}"), logit_bias=((a, 100), (b, -100)))
    assert handle.token_ids == [c] * 3


def test_banning_all_that_the_grammar_allows_is_an_error_of_this_request(engine: Engine) -> None:
    handle = run(engine, ids("a"), Grammar("regex", "a"), logit_bias=((ids("a")[0], -100),))
    assert handle.finish_reason == "error"
    assert "no token may come next" in str(handle.error)
    assert run(engine, ids("a"), Grammar("regex", "a")).text == "a"


def test_special_tokens_are_shown_on_request() -> None:
    tokenizer = byte_level()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<call>", "<other>"]})
    call, other = tokenizer.convert_tokens_to_ids(["<call>", "<other>"])
    sizes = SIZES | {"vocab_size": 400, "eos_token_id": END_ID}
    with Engine(Favourite(LlamaConfig(**sizes, **GROUPED_HEADS)).eval(), tokenizer) as engine:
        lark = Grammar("lark", f'start: "a" <[{call}]> "b" <[{other}]> "c"')
        assert run(engine, (), lark, visible_special_ids=(call,)).text == "a<call>bc"
        assert run(engine, (), lark).text == "abc"
