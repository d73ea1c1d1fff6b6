"""``POST /v1/embeddings``: OpenAI's requests and answers, over each kind of engine."""

import base64
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from slm_adapters import load
from slm_testing.serve.http_clients import openai_client
from slm_testing.serve.open_streams import LONG_REQUEST, is_idle, open_stream
from slm_testing.serve.running_server import RunningServer, delayed, running_server
from slm_testing.serve.small_models import lora_config, save_adapter, save_base
from slm_testing.serve.waiting import wait_until

TEXTS = ["Once upon a time", "there was a little girl", "who had a cat."]


@torch.no_grad()
def expected(base: str | Path, adapter: str | Path | None, texts: list[str]) -> list[list[float]]:
    """The normalised mean of transformers' last hidden states, of each text."""
    loaded, vectors = load(base, adapter, device="cpu"), []
    for text in texts:
        ids = torch.tensor([loaded.tokenizer(text)["input_ids"]])
        states = loaded.model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
        vectors.append(normalize(states.mean(0), dim=0).tolist())
    return vectors


@pytest.mark.parametrize("model", ["sample", "red", "moth"])
def test_openais_client_gets_the_vector_of_each_text_with_the_weights_of_the_model(
    server: RunningServer, adapters: dict[str, Path], model: str
) -> None:
    client = openai_client(server.url)
    answer = client.embeddings.create(model=model, input=TEXTS)  # it asks for base64
    assert [item.index for item in answer.data] == [0, 1, 2]
    for item, vector in zip(answer.data, expected("sample", adapters.get(model), TEXTS), strict=True):
        assert item.embedding == pytest.approx(vector, abs=1e-5)
    tokens = [len(server.post("/tokenize", {"prompt": text}).json()["tokens"]) for text in TEXTS]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(tokens)
    assert answer.model == model


@pytest.mark.parametrize("name", ["mamba", "gpt2"])
def test_models_without_pages_have_embeddings_too(name: str, tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", name)
    targets = ["x_proj"] if name == "mamba" else ["c_attn"]
    red = save_adapter(tmp_path / "red", base, lora_config(target_modules=targets))
    with running_server(model_path=str(base), adapter=(f"red={red}",), backend="transformers") as server:
        for model, adapter in (("base", None), ("red", red)):
            answer = server.post("/v1/embeddings", {"model": model, "input": TEXTS[0]}).json()
            assert answer["data"][0]["embedding"] == pytest.approx(expected(base, adapter, TEXTS[:1])[0], abs=1e-5)


def test_texts_and_token_ids_alone_and_in_a_list_give_the_same(server: RunningServer) -> None:
    ids = [server.post("/tokenize", {"prompt": text}).json()["tokens"] for text in TEXTS]

    def vectors(given: Any) -> list[list[float]]:
        answer = server.post("/v1/embeddings", {"input": given, "user": "me"}).json()
        return [item["embedding"] for item in answer["data"]]

    together = vectors(TEXTS)
    for index, text in enumerate(TEXTS):
        for alone in (vectors(text), vectors(ids[index]), vectors([text]), vectors([ids[index]])):
            assert len(alone) == 1
            assert alone[0] == pytest.approx(together[index], abs=1e-5)
    assert all(sum(x * x for x in vector) == pytest.approx(1, abs=1e-5) for vector in together)


def test_base64_has_the_bits_of_the_numbers(server: RunningServer) -> None:
    answers = [
        server.post("/v1/embeddings", {"input": TEXTS[0], "encoding_format": each}).json()["data"][0]["embedding"]
        for each in ("float", "base64")
    ]
    raw = base64.b64decode(answers[1])
    assert list(struct.unpack(f"<{len(raw) // 4}f", raw)) == pytest.approx(answers[0], abs=1e-7)


def test_more_inputs_than_places_are_computed_in_turn_beside_a_stream(limited_server: RunningServer) -> None:
    texts = [f"{number} little cats" for number in range(23)]
    stream = open_stream(limited_server, LONG_REQUEST | {"stream": True})
    wait_until(lambda: limited_server.engine.load().running == 1)
    answer = limited_server.post("/v1/embeddings", {"input": texts[:1] * 2}).json()
    assert [item["index"] for item in answer["data"]] == [0, 1]
    stream.close()
    wait_until(lambda: is_idle(limited_server))
    answer = limited_server.post("/v1/embeddings", {"input": texts}).json()
    assert [item["index"] for item in answer["data"]] == list(range(23))
    alone = limited_server.post("/v1/embeddings", {"input": texts[20]}).json()
    assert answer["data"][20]["embedding"] == pytest.approx(alone["data"][0]["embedding"], abs=1e-5)


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        ({"input": "a", "dimensions": 7}, 400, "dimensions", None),
        ({"input": [5] * 600}, 400, "input", "context_length_exceeded"),
        ({"input": ["a", ""]}, 200, None, None),  # the tokenizer begins each text with a token
        ({"input": []}, 400, None, None),
        ({"input": [[1, 2], []]}, 400, None, None),
        ({"input": [2048]}, 400, None, None),
        ({"input": ["a"] * 2049}, 400, None, None),
        ({"input": "a", "encoding_format": "hex"}, 400, "encoding_format", None),
        ({"input": "a", "model": "nobody"}, 404, "model", "model_not_found"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_embedded_is_an_error(
    server: RunningServer, body: dict[str, Any], status: int, param: str | None, code: str | None
) -> None:
    response = server.post("/v1/embeddings", body)
    assert response.status_code == status, response.text
    if status == 200:
        return
    error = response.json()["error"]
    if param:
        assert error["param"] == param
    if code:
        assert error["code"] == code
    if code == "context_length_exceeded":
        assert "maximum context length is 512 tokens" in error["message"]


def test_fields_that_cannot_change_the_answer_are_ignored_and_listed_and_others_refused(server: RunningServer) -> None:
    body = {"input": "a", "dimensions": None, "metadata": {"x": "y"}, "user": "me", "normalize": True}
    response = server.post("/v1/embeddings", body)
    assert response.status_code == 200
    assert response.headers["x-slm-ignored"] == "metadata, user"
    for field, value in (("truncate_prompt_tokens", 5), ("pooling", "last"), ("normalize", False)):
        response = server.post("/v1/embeddings", {"input": "a", field: value})
        assert (response.status_code, response.json()["error"]["param"]) == (400, field)


def test_the_width_of_the_model_is_accepted_as_dimensions(server: RunningServer) -> None:
    width = len(server.post("/v1/embeddings", {"input": "a"}).json()["data"][0]["embedding"])
    assert server.post("/v1/embeddings", {"input": "a", "dimensions": width}).status_code == 200


def test_a_full_queue_is_429(slow_server: RunningServer) -> None:
    streams = [open_stream(slow_server, LONG_REQUEST | {"stream": True}) for _ in range(3)]
    wait_until(lambda: slow_server.engine.load().waiting == 1)
    refused = slow_server.post("/v1/embeddings", {"input": "a"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
    assert refused.headers["Retry-After"]
    for stream in streams:
        stream.close()
    wait_until(lambda: is_idle(slow_server))


def test_the_deadline_of_a_request_counts_for_all_its_inputs(tiny_model: Path) -> None:
    with running_server(model_path=str(tiny_model), max_sequences=1, request_timeout=0.7) as server:
        server.engine.step = delayed(server.engine.step, 0.1)
        late = server.post("/v1/embeddings", {"input": ["a b c"] * 30})
        assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")
        wait_until(lambda: is_idle(server))


def test_a_client_that_disconnects_frees_its_places(slow_server: RunningServer) -> None:
    connection = open_stream(slow_server, {"input": ["a b c"] * 150}, "/v1/embeddings")
    wait_until(lambda: slow_server.engine.load().running > 0)
    connection.close()
    wait_until(lambda: is_idle(slow_server), 2)
