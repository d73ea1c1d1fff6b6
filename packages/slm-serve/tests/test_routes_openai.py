"""OpenAI's own client against the server."""

from typing import Any

import openai
import pytest
import torch
from openai import OpenAI

from slm_adapters import load
from slm_testing.serve.running_server import Running

PROMPT = "Once upon a time there was a"


@pytest.fixture(scope="module")
def client(server: Running) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def base() -> Any:
    return load("sample", device="cpu")


def test_models_are_listed_with_the_default_first(client: OpenAI) -> None:
    found: list[Any] = list(client.models.list())
    assert [(one.id, one.kind, one.parent, one.default) for one in found] == [
        ("sample", "base", None, True),
        ("red", "adapter", "sample", False),
        ("moth", "adapter", "sample", False),
    ]
    assert client.models.retrieve("red").id == "red"
    with pytest.raises(openai.NotFoundError, match="green"):
        client.models.retrieve("green")


def test_prompts_come_as_texts_or_as_tokens_one_or_several(client: OpenAI, base: Any) -> None:
    ids = base.tokenizer(PROMPT)["input_ids"]
    asked: Any = {"model": "sample", "max_tokens": 8, "temperature": 0}
    text = client.completions.create(prompt=PROMPT, **asked).choices[0].text
    for prompt, texts in [(ids, [text]), ([PROMPT, PROMPT], [text] * 2), ([ids, ids], [text] * 2)]:
        found = client.completions.create(prompt=prompt, **asked)
        assert [choice.text for choice in found.choices] == texts
        assert [choice.index for choice in found.choices] == list(range(len(texts)))
        assert found.usage
        assert found.usage.prompt_tokens == len(ids) * len(texts)
        assert found.usage.completion_tokens == 8 * len(texts)


def test_n_texts_differ_and_each_is_that_of_the_seed_after_it(client: OpenAI) -> None:
    asked: Any = {"model": "red", "prompt": PROMPT, "max_tokens": 16}
    several = client.completions.create(n=3, seed=10, **asked)
    alone = [client.completions.create(seed=seed, **asked).choices[0].text for seed in (10, 11, 12)]
    assert [choice.text for choice in several.choices] == alone
    assert len(set(alone)) == 3


def test_logprobs_and_echo_are_those_of_the_model_called_directly(client: OpenAI, base: Any) -> None:
    ids = base.tokenizer(PROMPT)["input_ids"]
    found = client.completions.create(
        model="sample", prompt=ids, max_tokens=4, temperature=0, logprobs=3, echo=True
    ).choices[0]
    assert found.logprobs
    new = client.completions.create(model="sample", prompt=ids, max_tokens=4, temperature=0).choices[0].text
    assert found.text == PROMPT + new
    generate: Any = base.model.generate
    tokens = generate(
        input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=4, do_sample=False
    )
    with torch.no_grad():
        expected = base.model(tokens, use_cache=False).logits[0].double().log_softmax(-1)
    logprobs: Any = found.logprobs.token_logprobs
    assert logprobs[0] is None
    assert len(logprobs) == tokens.shape[1]
    for place in range(1, tokens.shape[1]):
        row, token = expected[place - 1], int(tokens[0, place])
        assert logprobs[place] == pytest.approx(float(row[token]), abs=1e-4)
        top: Any = found.logprobs.top_logprobs
        assert max(top[place].values()) == pytest.approx(float(row.max()), abs=1e-4)
        assert len(top[place]) in (3, 4)
    offsets, names = found.logprobs.text_offset, found.logprobs.tokens
    assert offsets
    assert names
    assert all(found.text[at:].startswith(name) for at, name in zip(offsets[1:], names[1:], strict=True))


def test_echo_alone_scores_a_text_and_adds_nothing(client: OpenAI, base: Any) -> None:
    found = client.completions.create(model="sample", prompt=PROMPT, max_tokens=0, logprobs=0, echo=True)
    choice = found.choices[0]
    assert (choice.text, found.usage.completion_tokens if found.usage else None) == (PROMPT, 0)
    assert choice.logprobs
    assert len(choice.logprobs.tokens or []) == len(base.tokenizer(PROMPT)["input_ids"])


def test_a_stream_brings_the_same_text_and_the_usage_last(client: OpenAI) -> None:
    asked: Any = {"model": "moth", "prompt": PROMPT, "max_tokens": 12, "seed": 3, "n": 2}
    whole = client.completions.create(**asked)
    texts, last = ["", ""], None
    for last in client.completions.create(stream=True, stream_options={"include_usage": True}, **asked):
        for choice in last.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole.choices]
    assert last
    assert last.usage == whole.usage
    assert last.choices == []


def test_what_vllm_adds_works(client: OpenAI) -> None:
    asked: Any = {"model": "sample", "prompt": PROMPT, "max_tokens": 12}
    more = {"ignore_eos": True, "min_tokens": 12, "top_k": -1, "min_p": 0.05, "repetition_penalty": 1.2}
    found = client.completions.create(temperature=0.5, extra_body=more, **asked)
    assert found.usage
    assert found.usage.completion_tokens == 12
    first = client.completions.create(temperature=0, **asked).choices[0]
    stops: Any = client.post(
        "/completions",
        body={**asked, "temperature": 0, "stop_token_ids": [_first_token(client, asked)]},
        cast_to=object,
    )
    assert stops["choices"][0]["finish_reason"] == "stop"
    assert first.finish_reason == "length"


def _first_token(client: OpenAI, asked: Any) -> int:
    text = client.completions.create(**{**asked, "max_tokens": 1, "temperature": 0}).choices[0].text
    url = str(client.base_url).removesuffix("/v1/")
    found: Any = client.post(f"{url}/tokenize", body={"prompt": text, "add_special_tokens": False}, cast_to=object)
    return int(found["tokens"][0])


def test_a_chat_is_answered_whole_and_in_pieces(client: OpenAI) -> None:
    asked: Any = {
        "model": "sample",
        "messages": [{"role": "system", "content": "Tell stories."}, {"role": "user", "content": "Hello"}],
        "max_tokens": 10,
        "seed": 1,
    }
    whole = client.chat.completions.create(logprobs=True, top_logprobs=2, **asked)
    text = whole.choices[0].message.content
    assert text
    assert whole.choices[0].logprobs
    content: Any = whole.choices[0].logprobs.content
    assert "".join(one.token for one in content).startswith(text)
    assert [len(one.top_logprobs) for one in content] == [2] * len(content)
    pieces = [chunk.choices[0].delta for chunk in client.chat.completions.create(stream=True, **asked) if chunk.choices]
    assert pieces[0].role == "assistant"
    assert "".join(piece.content or "" for piece in pieces) == text


def test_without_a_template_turns_are_paragraphs_and_the_next_turn_ends_the_answer(client: OpenAI) -> None:
    chat = client.chat.completions.create(
        model="sample", messages=[{"role": "user", "content": "Hello"}], max_tokens=6, temperature=0
    )
    plain = client.completions.create(
        model="sample", prompt="User: Hello\n\nAssistant:", max_tokens=6, temperature=0, stop=["\nUser:", "\nSystem:"]
    )
    assert chat.choices[0].message.content == plain.choices[0].text


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"best_of": 2}, "best_of"),
        ({"temperature": -1}, "temperature"),
        ({"n": 0}, "n"),
        ({"logprobs": 21}, "logprobs"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [[1], "a"]}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 100, "prompt": ["a", "b"]}, "n"),
    ],
)
def test_a_mistake_is_400_in_openais_body(client: OpenAI, more: Any, field: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.post("/completions", body={"model": "sample", "prompt": "SECRET", **more}, cast_to=object)
    body: Any = refused.value.body
    assert body["type"] == "invalid_request_error"
    assert field in str(body)
    assert "SECRET" not in str(body)


def test_ids_outside_the_vocabulary_and_unknown_models_are_refused(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="outside the vocabulary"):
        client.completions.create(model="sample", prompt=[5, 100_000])
    with pytest.raises(openai.NotFoundError) as unknown:
        client.completions.create(model="green", prompt="a")
    body: Any = unknown.value.body
    assert body["code"] == "model_not_found"
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="sample", messages=[{"role": "tool", "content": "a"}])
