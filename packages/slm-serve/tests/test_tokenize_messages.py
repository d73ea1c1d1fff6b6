"""``/tokenize`` with the messages of a chat instead of a prompt."""

from typing import Any

import pytest

from slm_testing.serve.running_server import RunningServer

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi."},
    {"role": "user", "content": "And then?"},
]


@pytest.mark.parametrize("messages", [MESSAGES[1:2], MESSAGES])
def test_the_count_is_that_of_the_chat_request(limited_server: RunningServer, messages: list[dict[str, str]]) -> None:
    chat = limited_server.post("/v1/chat/completions", {"messages": messages, "max_tokens": 1}).json()
    tokenized = limited_server.post("/tokenize", {"messages": messages}).json()
    assert tokenized["count"] == len(tokenized["tokens"]) == chat["usage"]["prompt_tokens"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "give either prompt or messages"),
        ({"prompt": "Hello", "messages": MESSAGES}, "give either prompt or messages"),
        ({"messages": MESSAGES, "add_special_tokens": False}, "add_special_tokens has no effect on messages"),
        ({"messages": []}, "must not be empty"),
        ({"messages": [{"role": "narrator", "content": "Hello"}]}, "'user'"),
    ],
)
def test_other_bodies_are_rejected(limited_server: RunningServer, body: dict[str, Any], words: str) -> None:
    response = limited_server.post("/tokenize", body)
    assert response.status_code == 422
    assert words in response.text
