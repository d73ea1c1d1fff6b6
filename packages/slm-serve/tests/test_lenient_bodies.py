"""What clients send that this server does not know: ignored and listed, or refused by name."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from slm_serve.http.schemas.chat import ChatRequest
from slm_serve.http.schemas.responses import ResponsesRequest
from slm_testing.serve.running_server import RunningServer, running_server

HELLO = [{"role": "user", "content": "Hello"}]
CHAT = {"model": "sample", "messages": HELLO, "max_tokens": 3, "temperature": 0}
TEXT = {"model": "sample", "prompt": "Once upon", "max_tokens": 3, "temperature": 0}
CHAT_PATH, TEXT_PATH = "/v1/chat/completions", "/v1/completions"
EMBEDDING_PATH, RESPONSE_PATH = "/v1/embeddings", "/v1/responses"
BODIES: dict[str, dict[str, Any]] = {
    CHAT_PATH: CHAT,
    TEXT_PATH: TEXT,
    EMBEDDING_PATH: {"model": "sample", "input": "Once upon"},
    RESPONSE_PATH: {"model": "sample", "input": "Hello", "max_output_tokens": 3, "temperature": 0},
}
PATHS = [(CHAT_PATH, CHAT), (TEXT_PATH, TEXT)]


@pytest.fixture(scope="module")
def strict_server(tiny_model: Path) -> Iterator[RunningServer]:
    with running_server(model_path=str(tiny_model), served_model_name="sample", strict=True) as running:
        yield running


def text_of(response: httpx.Response) -> str:
    """Return the text of the first choice, whole or streamed."""
    assert response.status_code == 200, response.text
    if not response.headers["content-type"].startswith("text/event-stream"):
        choice = response.json()["choices"][0]
        return str(choice["message"]["content"] if "message" in choice else choice["text"])
    events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
    choices = [choice for event in events for choice in event["choices"] if choice["index"] == 0]
    return "".join(choice["delta"].get("content", "") if "delta" in choice else choice["text"] for choice in choices)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body"), PATHS)
@pytest.mark.parametrize(
    "nothing",
    [
        dict.fromkeys(["top_p", "n", "stop", "seed", "user", "stream_options", "logprobs", "min_p"]),
        dict.fromkeys(["logit_bias", "suffix", "tools", "tool_choice", "functions", "audio", "prediction", "best_of"]),
        {"stop": []},
        {"stop": [""]},
        {"best_of": 1, "length_penalty": 1.0, "use_beam_search": False, "skip_special_tokens": True},
        {"tools": [], "functions": [], "function_call": "none", "modalities": ["text"]},
        {"logit_bias": {}, "response_format": {"type": "text"}, "guided_json": None},
        {"logprobs": False, "top_logprobs": 0},
        {"n": 1.0, "max_tokens": 3.0},
        {"stream_options": {"include_usage": None}},
        {"temperature": 0.0, "presence_penalty": 0, "frequency_penalty": 0.0, "top_k": -1},
    ],
    ids=lambda nothing: "+".join(nothing),
)
def test_fields_that_ask_for_nothing_change_nothing(
    server: RunningServer, path: str, body: Any, nothing: Any, stream: bool
) -> None:
    response = server.post(path, body | nothing | {"stream": stream})
    assert text_of(response) == text_of(server.post(path, body))
    assert "x-slm-ignored" not in response.headers


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body"), PATHS)
def test_fields_without_influence_on_the_text_are_ignored_and_listed(
    server: RunningServer, path: str, body: Any, stream: bool
) -> None:
    ignored = {
        "metadata": {"run": "1"},
        "store": False,
        "service_tier": "auto",
        "parallel_tool_calls": True,
        "reasoning_effort": "low",
        "user": 7,
        "safety_identifier": "x",
        "prompt_cache_key": "y",
        "verbosity": "low",
        "provider": {"order": ["a"]},
        "cache_salt": "z",
    }
    response = server.post(path, body | ignored | {"stream": stream, "stream_options": {"include_obfuscation": False}})
    assert text_of(response) == text_of(server.post(path, body))
    listed = set(response.headers["x-slm-ignored"].split(", "))
    assert listed >= set(ignored) - {"parallel_tool_calls"} | {"stream_options.include_obfuscation"}
    assert "x-slm-ignored" not in server.post(path, body).headers


def test_embeddings_ignore_and_list_fields_without_influence(server: RunningServer) -> None:
    body = BODIES[EMBEDDING_PATH]
    neutral = {"normalize": True, "truncate": "NONE", "dimensions": None, "metadata": {}}
    response = server.post(EMBEDDING_PATH, body | neutral | {"user": 7, "service_tier": "auto"})
    assert response.json() == server.post(EMBEDDING_PATH, body).json()
    assert response.headers["x-slm-ignored"] == "user, service_tier"


def test_every_field_of_chats_has_an_effect_on_responses_or_is_refused(server: RunningServer) -> None:
    differently_named = {"messages", "max_tokens", "max_completion_tokens", "response_format", "n", "logprobs"}
    known = ResponsesRequest.model_fields.keys() | ResponsesRequest.refused_fields.keys()
    assert known >= ChatRequest.model_fields.keys() - {"stream_options", "user"} | differently_named
    body = BODIES[RESPONSE_PATH] | {"max_output_tokens": 20}
    token = server.post(
        "/tokenize", {"prompt": server.post(RESPONSE_PATH, body).json()["output"][0]["content"][0]["text"]}
    )
    stopped = server.post(RESPONSE_PATH, body | {"stop_token_ids": token.json()["tokens"]})
    assert stopped.json()["status"] == "completed"


def test_fields_of_messages_and_parts_are_listed_with_their_place(server: RunningServer) -> None:
    part = {"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}}
    answer = {"role": "assistant", "content": "Hi", "annotations": [], "refusal": None, "audio": None, "weight": 1}
    messages = [{"role": "user", "content": [part, "there"], "name": "ann"}, answer, *HELLO]
    response = server.post(CHAT_PATH, CHAT | {"messages": messages})
    plain = [{"role": "user", "content": "Hellothere"}, {"role": "assistant", "content": "Hi"}, *HELLO]
    assert text_of(response) == text_of(server.post(CHAT_PATH, CHAT | {"messages": plain}))
    assert response.headers["x-slm-ignored"] == "messages.content.cache_control, messages.name, messages.weight"


@pytest.mark.parametrize(
    "name",
    ["x\r\nset-cookie: a=b", "é☃", "\ud800", "a, b", "x" * 5000, "", '"quoted"'],
    ids=lambda name: ascii(name)[:9],
)
def test_the_names_of_unknown_fields_cannot_do_harm_in_the_header(server: RunningServer, name: str) -> None:
    body = json.dumps(CHAT | {name: 1} | {f"field{number}": 1 for number in range(60)})
    headers = {"Content-Type": "application/json"}
    response = server.request("POST", CHAT_PATH, content=body, headers=headers)
    assert response.status_code == 200
    assert "set-cookie" not in response.headers
    listed = response.headers["x-slm-ignored"]
    assert listed.isascii()
    assert len(listed) < 2500
    assert listed.endswith("and 29 more")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        (CHAT_PATH, "audio", {"voice": "alloy", "format": "wav"}),
        (CHAT_PATH, "modalities", ["text", "audio"]),
        (CHAT_PATH, "prediction", {"type": "content", "content": "a"}),
        (CHAT_PATH, "web_search_options", {}),
        (CHAT_PATH, "best_of", 2),
        (CHAT_PATH, "echo", True),
        (CHAT_PATH, "chat_template", "{{ messages }}"),
        (CHAT_PATH, "thinking_token_budget", 5),
        (CHAT_PATH, "use_beam_search", True),
        (CHAT_PATH, "length_penalty", 0.5),
        (CHAT_PATH, "skip_special_tokens", False),
        (CHAT_PATH, "prompt_logprobs", 0),
        (CHAT_PATH, "temperature", "0.7"),
        (CHAT_PATH, "logprobs", 5),
        (CHAT_PATH, "top_logprobs", 3),
        (CHAT_PATH, "max_tokens", "4"),
        (CHAT_PATH, "max_tokens", -2),
        (CHAT_PATH, "n", 0),
        (CHAT_PATH, "messages", None),
        (CHAT_PATH, "messages", []),
        (CHAT_PATH, "continue_final_message", True),
        (CHAT_PATH, "chat_template_kwargs", {"tokenize": True}),
        (CHAT_PATH, "add_special_tokens", True),
        (CHAT_PATH, "instructions", "Be kind."),
        (CHAT_PATH, "max_output_tokens", 5),
        (CHAT_PATH, "mirostat_mode", 2),
        (CHAT_PATH, "dry_multiplier", 0.8),
        (CHAT_PATH, "guided_whitespace_pattern", " "),
        (CHAT_PATH, "schema", {"type": "object"}),
        (CHAT_PATH, "response_format", {"type": "json_object", "value": {"type": "object"}}),
        (CHAT_PATH, "response_format", {"type": "text", "schema": {"type": "object"}}),
        (CHAT_PATH, "tools", [{"type": "function", "function": {"name": "f", "input_schema": {"type": "object"}}}]),
        (CHAT_PATH, "logit_bias", {"-5": 1}),
        (CHAT_PATH, "seed", 2**63),
        (EMBEDDING_PATH, "input", []),
        (EMBEDDING_PATH, "input", [[]]),
        (EMBEDDING_PATH, "input", None),
        (EMBEDDING_PATH, "input", {"text": "a"}),
        (EMBEDDING_PATH, "input", ["a", [1]]),
        (EMBEDDING_PATH, "input", [{"type": "text", "text": "a"}]),
        (EMBEDDING_PATH, "truncate_prompt_tokens", 5),
        (EMBEDDING_PATH, "input_type", "query"),
        (EMBEDDING_PATH, "normalize", False),
        (RESPONSE_PATH, "guided_choice", ["a", "b"]),
        (RESPONSE_PATH, "logprobs", True),
        (RESPONSE_PATH, "max_tokens", 5),
        (RESPONSE_PATH, "stop_token_ids", ["a"]),
        (TEXT_PATH, "chat_template_kwargs", {"enable_thinking": False}),
        (TEXT_PATH, "system", "Be kind."),
        (TEXT_PATH, "best_of", 2),
        (TEXT_PATH, "suffix", "the end"),
        (TEXT_PATH, "prompt_embeds", "AAAA"),
        (TEXT_PATH, "tools", [{"type": "function", "function": {"name": "f"}}]),
        (TEXT_PATH, "tool_choice", "required"),
        (TEXT_PATH, "max_new_tokens", 5),
        (TEXT_PATH, "repeat_penalty", 1.2),
        (TEXT_PATH, "options", {"num_ctx": 5}),
        (TEXT_PATH, "logprobs", True),
        (TEXT_PATH, "prompt", None),
        (TEXT_PATH, "prompt", [None]),
    ],
)
def test_fields_that_would_change_the_answer_are_400_and_named(
    server: RunningServer, path: str, field: str, value: Any, stream: bool
) -> None:
    streamed = {} if path == EMBEDDING_PATH else {"stream": stream}
    response = server.post(path, BODIES[path] | streamed | {field: value})
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (400, "invalid_request_error")
    assert field in error["message"]
    for internal in (
        "Input should",
        "String should",
        "[key]",
        "e+",
        "function-",
        "pydantic",
        "Value error",
        "https://",
        "<",
    ):
        assert internal not in error["message"]


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}, "image_url"),
        ({"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]}, "audio"),
        ({"role": "user", "content": None}, "content"),
        ({"role": "user"}, "content"),
        ({"role": "user", "content": 5}, "content"),
        ({"role": "critic", "content": "a"}, "role"),
        ({"content": "a"}, "role"),
        ({"role": "user", "content": "a", "tool_calls": [{"function": {"name": "f"}}]}, "tool_calls"),
        ({"role": "assistant", "tool_calls": [{"type": "custom", "custom": {"name": "f"}}]}, "tool_calls"),
        ({"role": "assistant", "content": None, "audio": {"id": "a1"}}, "audio"),
        ({"role": "assistant", "content": "a", "prefix": True}, "prefix"),
        ({"role": "assistant", "content": "a", "partial": True}, "partial"),
        ({"role": "assistant", "parts": [{"type": "text", "text": "a"}]}, "parts"),
        ({"role": "user", "content": "a", "attachments": [{"url": "data:,"}]}, "attachments"),
    ],
)
def test_messages_that_cannot_be_read_are_400_and_named(server: RunningServer, message: Any, named: str) -> None:
    response = server.post(CHAT_PATH, CHAT | {"messages": [message]})
    assert response.status_code == 400
    error = response.json()["error"]
    assert named in error["message"]
    assert error["param"].startswith("messages.0")


def test_a_strict_server_rejects_what_it_does_not_know(strict_server: RunningServer) -> None:
    assert strict_server.post(CHAT_PATH, CHAT).status_code == 200
    for path, body, field, value in [
        (CHAT_PATH, CHAT, "metadata", {}),
        (CHAT_PATH, CHAT, "best_of", 1),
        (CHAT_PATH, CHAT, "stop", ""),
        (CHAT_PATH, CHAT, "max_tokens", -1),
        (CHAT_PATH, CHAT, "max_tokens", 100_000),
        (CHAT_PATH, CHAT, "top_logprobs", 0),
        (CHAT_PATH, CHAT, "stream_options", {"include_usage": True}),
        (CHAT_PATH, CHAT, "messages", [{"role": "user", "content": []}]),
        (CHAT_PATH, CHAT, "messages", [HELLO[0] | {"cache_control": {}}]),
        (TEXT_PATH, TEXT, "suffix", None),
        (TEXT_PATH, TEXT, "max_tokens", 100_000),
    ]:
        response = strict_server.post(path, body | {field: value})
        assert response.status_code == 400, (field, value)
        assert field.replace("max_tokens", "tokens") in response.json()["error"]["message"]


def test_generate_is_always_strict(server: RunningServer) -> None:
    for change in ({"metadata": {}}, {"temperature": None}, {"max_new_tokens": 100_000}):
        assert server.post("/generate", {"prompt": "a"} | change).status_code == 422


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [(TEXT_PATH, TEXT, "stop"), ("/v1/load_lora_adapter", {"lora_path": "a"}, "lora_name")],
)
def test_the_length_of_a_text_is_in_characters(server: RunningServer, path: str, body: Any, field: str) -> None:
    message = server.post(path, body | {field: "a" * 2000}).json()["error"]["message"]
    assert re.fullmatch(rf"{field} has more than [0-9]+ characters; shorten it", message)
