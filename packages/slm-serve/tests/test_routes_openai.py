"""The endpoints under /v1, used by OpenAI's own client."""

from typing import Any

import openai
import pytest
import torch
from openai import OpenAI

from slm_adapters import load
from slm_testing.serve.http_clients import openai_client
from slm_testing.serve.running_server import RunningServer

PROMPT = "Once upon a time there was a"


@pytest.fixture(scope="module")
def client(server: RunningServer) -> OpenAI:
    return openai_client(server.url)


@pytest.fixture(scope="module")
def base() -> Any:
    return load("sample", device="cpu")


def test_models_are_listed_with_the_default_first(client: OpenAI) -> None:
    models: list[Any] = list(client.models.list())
    assert [(model.id, model.kind, model.parent, model.default) for model in models] == [
        ("sample", "base", None, True),
        ("red", "adapter", "sample", False),
        ("moth", "adapter", "sample", False),
    ]
    assert client.models.retrieve("red").id == "red"
    with pytest.raises(openai.NotFoundError, match="green"):
        client.models.retrieve("green")


def test_prompts_can_be_texts_or_tokens_one_or_several(client: OpenAI, base: Any) -> None:
    ids = base.tokenizer(PROMPT)["input_ids"]
    options: Any = {"model": "sample", "max_tokens": 8, "temperature": 0}
    text = client.completions.create(prompt=PROMPT, **options).choices[0].text
    for prompt, texts in [(ids, [text]), ([PROMPT, PROMPT], [text] * 2), ([ids, ids], [text] * 2)]:
        completion = client.completions.create(prompt=prompt, **options)
        assert [choice.text for choice in completion.choices] == texts
        assert [choice.index for choice in completion.choices] == list(range(len(texts)))
        assert completion.usage
        assert completion.usage.prompt_tokens == len(ids) * len(texts)
        assert completion.usage.completion_tokens == 8 * len(texts)


def test_the_seed_of_each_of_n_texts_is_one_above_the_previous(client: OpenAI) -> None:
    options: Any = {"model": "red", "prompt": PROMPT, "max_tokens": 16}
    completion = client.completions.create(n=3, seed=10, **options)
    single = [client.completions.create(seed=seed, **options).choices[0].text for seed in (10, 11, 12)]
    assert [choice.text for choice in completion.choices] == single
    assert len(set(single)) == 3


def test_logprobs_and_echo_equal_those_of_the_model_itself(client: OpenAI, base: Any) -> None:
    ids = base.tokenizer(PROMPT)["input_ids"]
    choice = client.completions.create(
        model="sample", prompt=ids, max_tokens=4, temperature=0, logprobs=3, echo=True
    ).choices[0]
    assert choice.logprobs
    new = client.completions.create(model="sample", prompt=ids, max_tokens=4, temperature=0).choices[0].text
    assert choice.text == PROMPT + new
    generate: Any = base.model.generate
    tokens = generate(
        input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=4, do_sample=False
    )
    with torch.no_grad():
        expected = base.model(tokens, use_cache=False).logits[0].double().log_softmax(-1)
    logprobs: Any = choice.logprobs.token_logprobs
    assert logprobs[0] is None
    assert len(logprobs) == tokens.shape[1]
    for at in range(1, tokens.shape[1]):
        row, token = expected[at - 1], int(tokens[0, at])
        assert logprobs[at] == pytest.approx(float(row[token]), abs=1e-4)
        top: Any = choice.logprobs.top_logprobs
        assert max(top[at].values()) == pytest.approx(float(row.max()), abs=1e-4)
        assert len(top[at]) in (3, 4)
    offsets, names = choice.logprobs.text_offset, choice.logprobs.tokens
    assert offsets
    assert names
    assert all(choice.text[at:].startswith(name) for at, name in zip(offsets[1:], names[1:], strict=True))


def test_echo_without_new_tokens_scores_a_text_and_adds_nothing(client: OpenAI, base: Any) -> None:
    completion = client.completions.create(model="sample", prompt=PROMPT, max_tokens=0, logprobs=0, echo=True)
    choice = completion.choices[0]
    assert (choice.text, completion.usage.completion_tokens if completion.usage else None) == (PROMPT, 0)
    assert choice.logprobs
    assert len(choice.logprobs.tokens or []) == len(base.tokenizer(PROMPT)["input_ids"])


def test_a_stream_has_the_same_text_and_the_usage_last(client: OpenAI) -> None:
    options: Any = {"model": "moth", "prompt": PROMPT, "max_tokens": 12, "seed": 3, "n": 2}
    whole = client.completions.create(**options)
    texts, last = ["", ""], None
    for last in client.completions.create(stream=True, stream_options={"include_usage": True}, **options):
        for choice in last.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole.choices]
    assert last
    assert last.usage == whole.usage
    assert last.choices == []


def test_fields_of_vllm_have_their_effect(client: OpenAI) -> None:
    options: Any = {"model": "sample", "prompt": PROMPT, "max_tokens": 12}
    extra_body = {"ignore_eos": True, "min_tokens": 12, "top_k": -1, "min_p": 0.05, "repetition_penalty": 1.2}
    completion = client.completions.create(temperature=0.5, extra_body=extra_body, **options)
    assert completion.usage
    assert completion.usage.completion_tokens == 12
    first = client.completions.create(temperature=0, **options).choices[0]
    stopped: Any = client.post(
        "/completions",
        body={**options, "temperature": 0, "stop_token_ids": [_first_token(client, options)]},
        cast_to=object,
    )
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert first.finish_reason == "length"


def _first_token(client: OpenAI, options: Any) -> int:
    text = client.completions.create(**{**options, "max_tokens": 1, "temperature": 0}).choices[0].text
    url = str(client.base_url).removesuffix("/v1/")
    response: Any = client.post(f"{url}/tokenize", body={"prompt": text, "add_special_tokens": False}, cast_to=object)
    return int(response["tokens"][0])


def test_a_chat_is_answered_whole_and_as_a_stream(client: OpenAI) -> None:
    options: Any = {
        "model": "sample",
        "messages": [{"role": "system", "content": "Tell stories."}, {"role": "user", "content": "Hello"}],
        "max_tokens": 10,
        "seed": 1,
    }
    whole = client.chat.completions.create(logprobs=True, top_logprobs=2, **options)
    text = whole.choices[0].message.content
    assert text
    assert whole.choices[0].logprobs
    content: Any = whole.choices[0].logprobs.content
    assert "".join(token.token for token in content).startswith(text)
    assert [len(token.top_logprobs) for token in content] == [2] * len(content)
    chunks = client.chat.completions.create(stream=True, **options)
    pieces = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert pieces[0].role == "assistant"
    assert "".join(piece.content or "" for piece in pieces) == text


def test_without_a_chat_template_turns_are_paragraphs_and_the_next_turn_ends_the_answer(client: OpenAI) -> None:
    chat = client.chat.completions.create(
        model="sample", messages=[{"role": "user", "content": "Hello"}], max_tokens=6, temperature=0
    )
    plain = client.completions.create(
        model="sample", prompt="User: Hello\n\nAssistant:", max_tokens=6, temperature=0, stop=["\nUser:", "\nSystem:"]
    )
    assert chat.choices[0].message.content == plain.choices[0].text


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"best_of": 2}, "best_of"),
        ({"temperature": -1}, "temperature"),
        ({"n": 0}, "n"),
        ({"logprobs": 21}, "logprobs"),
        ({"max_tokens": -2}, "max_tokens"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"stream_options": {"include_usage": "yes"}}, "stream_options"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [[1], "a"]}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 100, "prompt": ["a", "b"]}, "n"),
    ],
)
def test_an_invalid_request_is_400_in_openais_format(client: OpenAI, change: Any, field: str) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.post("/completions", body={"model": "sample", "prompt": "SECRET", **change}, cast_to=object)
    body: Any = raised.value.body
    assert body["type"] == "invalid_request_error"
    assert field in str(body)
    assert "SECRET" not in str(body)


def test_unknown_token_ids_models_and_roles_are_rejected(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="outside the vocabulary"):
        client.completions.create(model="sample", prompt=[5, 100_000])
    with pytest.raises(openai.NotFoundError) as raised:
        client.completions.create(model="green", prompt="a")
    body: Any = raised.value.body
    assert body["code"] == "model_not_found"
    messages: Any = [{"role": "critic", "content": "a"}]
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="sample", messages=messages)
