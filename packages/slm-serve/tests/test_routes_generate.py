"""``/generate``: the texts that the models give by themselves, and strict bodies."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from slm_adapters import load
from slm_testing.serve.running_server import Running

PROMPT = "Once upon a time there was a"


def alone(folder: Path | str, new: int) -> str:
    """What transformers' own generate adds to PROMPT, greedily."""
    loaded = load(folder, device="cpu")
    ids = torch.tensor([loaded.tokenizer(PROMPT)["input_ids"]])
    generate: Any = loaded.model.generate
    out = generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False)
    return str(loaded.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


def events(text: str) -> list[Any]:
    found = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert found[-1] == "[DONE]"
    return [json.loads(line) for line in found[:-1]]


def test_each_model_gives_its_own_text_side_by_side_with_a_cache_and_without(
    server: Running, adapters: dict[str, Path]
) -> None:
    expected = {name: alone(folder, 24) for name, folder in {"sample": "sample", **adapters}.items()}
    assert len(set(expected.values())) == 3
    asked = [(name, cached) for name in expected for cached in (True, False)]

    def ask(one: tuple[str, bool]) -> Any:
        body = {"prompt": PROMPT, "max_new_tokens": 24, "temperature": 0, "adapter": one[0], "use_cache": one[1]}
        return server.post("/generate", body).json()

    with ThreadPoolExecutor(len(asked)) as clients:
        answers = list(clients.map(ask, asked))
    assert [answer["text"] for answer in answers] == [expected[name] for name, _ in asked]
    assert [answer["model"] for answer in answers] == [name for name, _ in asked]
    prompt_tokens = len(server.post("/tokenize", {"prompt": PROMPT}).json()["tokens"])
    for answer in answers:
        assert (answer["prompt_tokens"], answer["completion_tokens"]) == (prompt_tokens, 24)
        assert answer["finish_reason"] == "length"
        assert answer["tokens_per_second"] == pytest.approx(24 / answer["seconds"])
        assert 0 < answer["time_to_first_token"] < answer["seconds"]


def test_a_stream_has_the_same_text_in_pieces_and_the_figures_last(server: Running) -> None:
    body = {"prompt": PROMPT, "max_new_tokens": 20, "seed": 5, "temperature": 0.9, "top_p": 0.9}
    whole = server.post("/generate", body).json()
    answer = server.post("/generate", body | {"stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = events(answer.text)
    assert "".join(one["text"] for one in found) == whole["text"]
    assert [one["completion_tokens"] for one in found] == sorted(one["completion_tokens"] for one in found)
    assert len(found) > 10
    last = found[-1]
    figures = ("seconds", "time_to_first_token", "tokens_per_second", "text")
    assert {key: last[key] for key in whole if key not in figures} == {
        key: whole[key] for key in whole if key not in figures
    }


def test_a_seed_repeats_a_text_and_without_one_texts_differ(server: Running) -> None:
    body = {"prompt": PROMPT, "max_new_tokens": 24}
    seeded = {server.post("/generate", body | {"seed": 7}).json()["text"] for _ in range(2)}
    assert len(seeded) == 1
    assert len({server.post("/generate", body).json()["text"] for _ in range(4)}) > 1


def test_a_stop_text_ends_it_and_is_not_in_it(server: Running) -> None:
    body = {"prompt": PROMPT, "max_new_tokens": 24, "temperature": 0}
    text = server.post("/generate", body).json()["text"]
    word = text.split()[3]
    stopped = server.post("/generate", body | {"stop": [word, "nowhere"]}).json()
    assert stopped["text"] == text[: text.index(word)]
    assert stopped["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"max_tokens": 5}, "max_tokens"),  # OpenAI's name: unknown here
        ({"temperature": "0.5"}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": None}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": True}, "max_new_tokens"),
        ({"max_new_tokens": 10**30}, "max_new_tokens"),
        ({"seed": 2**63}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"use_cache": 1}, "use_cache"),
        ({"prompt": ["a"]}, "prompt"),
        ({"prompt": None}, "prompt"),
    ],
)
def test_what_is_unknown_or_out_of_range_is_422_and_named(server: Running, change: Any, field: str) -> None:
    answer = server.post("/generate", {"prompt": "SECRET", "max_new_tokens": 4} | change)
    assert answer.status_code == 422
    problems = answer.json()["detail"]
    assert {one["loc"][1] for one in problems} == {field}
    assert "SECRET" not in answer.text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b'{"prompt": "a", "temperature": NaN}',
        b'{"prompt": "a", "temperature": 1e999}',
        b'{"prompt": "a", "seed": 1' + b"0" * 5000 + b"}",
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "a", "\\ud800": 1}',
        b'{"prompt": "a", "stop": "\\udfff"}',
        b"[" * 100_000,
        b'{"prompt": ' + b'{"a": ' * 5000 + b"1" + b"}" * 5001,
    ],
)
@pytest.mark.parametrize("path", ["/generate", "/v1/completions", "/v1/chat/completions", "/tokenize"])
def test_a_body_that_is_none_is_refused_in_the_right_words(server: Running, path: str, content: bytes) -> None:
    answer = httpx.post(server.url + path, content=content, headers={"Content-Type": "application/json"}, timeout=60)
    assert 400 <= answer.status_code < 500
    if path.startswith("/v1"):
        assert answer.status_code == 400
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    else:
        assert answer.json()["detail"]


def test_a_form_is_not_taken_for_json(server: Running) -> None:
    answer = httpx.post(
        server.url + "/generate", content=b'{"prompt": "a"}', headers={"Content-Type": "text/plain"}, timeout=60
    )
    assert answer.status_code == 422  # so that no page elsewhere can send one without asking first


def test_what_can_never_be_answered_is_422_in_a_sentence(server: Running) -> None:
    long = server.post("/generate", {"prompt": "a b c " * 1000})
    much = server.post("/generate", {"prompt": "a", "max_new_tokens": 512})
    assert (long.status_code, much.status_code) == (422, 422)
    assert "512" in long.json()["detail"]
    assert "ask for fewer new tokens" in much.json()["detail"]
    other = server.post("/generate", {"prompt": "a", "adapter": "green"})
    assert other.status_code == 404
    assert "'green'; there are: sample, red, moth" in other.json()["detail"]


def test_text_goes_to_tokens_and_back(server: Running) -> None:
    found = server.post("/tokenize", {"prompt": PROMPT, "return_token_strs": True}).json()
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    assert found["max_model_len"] == 512
    asked = {"prompt": PROMPT, "add_special_tokens": False, "model": "red"}
    plain = server.post("/tokenize", asked).json()["tokens"]
    assert server.post("/tokenize", asked | {"model": "green"}).status_code == 404
    assert server.post("/detokenize", {"tokens": plain}).json() == {"prompt": PROMPT}
    strange = server.post("/detokenize", {"tokens": [1, 10**6]})
    assert strange.status_code == 422
    assert "1000000" in strange.json()["detail"]
