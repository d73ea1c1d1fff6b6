"""``/generate``, ``/tokenize`` and ``/detokenize``: texts equal to transformers' own, and strict bodies."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from slm_adapters import load
from slm_testing.serve.running_server import RunningServer

PROMPT = "Once upon a time there was a"


def greedy_text(folder: Path | str, new: int) -> str:
    """Return what transformers' own generate adds to PROMPT, greedily."""
    loaded = load(folder, device="cpu")
    ids = torch.tensor([loaded.tokenizer(PROMPT)["input_ids"]])
    generate: Any = loaded.model.generate
    out = generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False)
    return str(loaded.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


def events(text: str) -> list[Any]:
    data = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert data[-1] == "[DONE]"
    return [json.loads(line) for line in data[:-1]]


def test_all_models_give_their_own_texts_at_the_same_time_with_and_without_a_cache(
    server: RunningServer, adapters: dict[str, Path]
) -> None:
    folders: dict[str, str | Path] = {"sample": "sample", **adapters}
    expected = {name: greedy_text(folder, 24) for name, folder in folders.items()}
    assert len(set(expected.values())) == 3
    cases = [(name, use_cache) for name in expected for use_cache in (True, False)]

    def generate(case: tuple[str, bool]) -> Any:
        name, use_cache = case
        body = {"prompt": PROMPT, "max_new_tokens": 24, "temperature": 0, "adapter": name, "use_cache": use_cache}
        return server.post("/generate", body).json()

    with ThreadPoolExecutor(len(cases)) as threads:
        answers = list(threads.map(generate, cases))
    assert [answer["text"] for answer in answers] == [expected[name] for name, _ in cases]
    assert [answer["model"] for answer in answers] == [name for name, _ in cases]
    prompt_tokens = len(server.post("/tokenize", {"prompt": PROMPT}).json()["tokens"])
    for answer in answers:
        assert (answer["prompt_tokens"], answer["completion_tokens"]) == (prompt_tokens, 24)
        assert answer["finish_reason"] == "length"
        assert answer["tokens_per_second"] == pytest.approx(24 / answer["seconds"])
        assert 0 < answer["time_to_first_token"] < answer["seconds"]


def test_a_stream_has_the_same_text_in_pieces_and_the_timing_last(server: RunningServer) -> None:
    body = {"prompt": PROMPT, "max_new_tokens": 20, "seed": 5, "temperature": 0.9, "top_p": 0.9}
    whole = server.post("/generate", body).json()
    response = server.post("/generate", body | {"stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    streamed = events(response.text)
    assert "".join(event["text"] for event in streamed) == whole["text"]
    assert [event["completion_tokens"] for event in streamed] == sorted(
        event["completion_tokens"] for event in streamed
    )
    assert len(streamed) > 10
    last = streamed[-1]
    differing = ("seconds", "time_to_first_token", "tokens_per_second", "text")
    assert {key: last[key] for key in whole if key not in differing} == {
        key: whole[key] for key in whole if key not in differing
    }


def test_a_seed_repeats_a_text_and_texts_differ_without_one(server: RunningServer) -> None:
    body = {"prompt": PROMPT, "max_new_tokens": 24}
    seeded = {server.post("/generate", body | {"seed": 7}).json()["text"] for _ in range(2)}
    assert len(seeded) == 1
    assert len({server.post("/generate", body).json()["text"] for _ in range(4)}) > 1


def test_a_stop_string_ends_the_text_and_is_not_part_of_it(server: RunningServer) -> None:
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
def test_an_unknown_or_invalid_field_is_422_and_named(server: RunningServer, change: Any, field: str) -> None:
    response = server.post("/generate", {"prompt": "SECRET", "max_new_tokens": 4} | change)
    assert response.status_code == 422
    assert {problem["loc"][1] for problem in response.json()["detail"]} == {field}
    assert "SECRET" not in response.text


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
        b'{"prompt": "a", "stop": "\\udfff"}',
        b"[" * 100_000,
        b'{"prompt": ' + b'{"a": ' * 5000 + b"1" + b"}" * 5001,
    ],
)
@pytest.mark.parametrize("path", ["/generate", "/v1/completions", "/v1/chat/completions", "/tokenize"])
def test_an_invalid_body_gets_an_error_in_the_format_of_its_path(
    server: RunningServer, path: str, content: bytes
) -> None:
    response = server.request("POST", path, content=content, headers={"Content-Type": "application/json"})
    assert 400 <= response.status_code < 500
    if path.startswith("/v1"):
        assert response.status_code == 400
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    else:
        assert response.json()["detail"]


def test_a_body_that_is_not_declared_as_json_is_rejected(server: RunningServer) -> None:
    response = server.request("POST", "/generate", content=b'{"prompt": "a"}', headers={"Content-Type": "text/plain"})
    assert response.status_code == 422  # so that no page of another origin can send one without a CORS preflight


def test_a_request_that_can_never_be_answered_is_422_with_a_sentence(server: RunningServer) -> None:
    long = server.post("/generate", {"prompt": "a b c " * 1000})
    much = server.post("/generate", {"prompt": "a", "max_new_tokens": 512})
    assert (long.status_code, much.status_code) == (422, 422)
    assert "512" in long.json()["detail"]
    assert "ask for fewer new tokens" in much.json()["detail"]
    other = server.post("/generate", {"prompt": "a", "adapter": "green"})
    assert other.status_code == 404
    assert "'green'; available: sample, red, moth" in other.json()["detail"]


def test_a_text_is_tokenized_and_decoded_again(server: RunningServer) -> None:
    tokenized = server.post("/tokenize", {"prompt": PROMPT, "return_token_strs": True}).json()
    assert tokenized["count"] == len(tokenized["tokens"]) == len(tokenized["token_strs"])
    assert tokenized["max_model_len"] == 512
    body = {"prompt": PROMPT, "add_special_tokens": False, "model": "red"}
    plain = server.post("/tokenize", body).json()["tokens"]
    assert server.post("/tokenize", body | {"model": "green"}).status_code == 404
    assert server.post("/detokenize", {"tokens": plain}).json() == {"prompt": PROMPT}
    unknown = server.post("/detokenize", {"tokens": [1, 10**6]})
    assert unknown.status_code == 422
    assert "1000000" in unknown.json()["detail"]
