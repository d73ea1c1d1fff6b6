"""What does not fit under /v1: clamped limits, rejected prompts, and prompts that are cut off on request."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from slm_serve.errors import RequestError
from slm_serve.http.prompts.limits import PromptLimits
from slm_testing.serve.http_clients import openai_client
from slm_testing.serve.running_server import RunningServer, running_server

CONTEXT = 512  # tokens, of the tiny model and of the built-in base
CHAT_PATH, TEXT_PATH = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def truncating_server(tiny_model: Path) -> Iterator[RunningServer]:
    with running_server(model_path=str(tiny_model), served_model_name="tiny", truncate_prompt=True) as running:
        yield running


def chat(*contents: str, **options: Any) -> dict[str, Any]:
    """Return the body of a chat in which the user and the assistant speak in turn."""
    roles = ["user", "assistant"] * len(contents)
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    return {"messages": messages, "temperature": 0, **options}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT_PATH, TEXT_PATH])
def test_more_new_tokens_than_fit_are_clamped(server: RunningServer, path: str, stream: bool) -> None:
    client = openai_client(server.url)
    options: Any = {"model": "sample", "max_tokens": 100_000, "extra_body": {"ignore_eos": True}}
    if stream:
        options |= {"stream": True, "stream_options": {"include_usage": True}}
    long = "word " * 220  # 442 tokens, so that little is to be generated
    if path == CHAT_PATH:
        answer: Any = client.chat.completions.create(messages=[{"role": "user", "content": long}], **options)
    else:
        answer = client.completions.create(prompt=long, **options)
    events = list(answer) if stream else [answer]
    reasons = [choice.finish_reason for event in events for choice in event.choices if choice.finish_reason]
    assert reasons == ["length"]
    assert events[-1].usage.total_tokens == CONTEXT


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT_PATH, chat("word " * 400, max_tokens=4), "messages"),
        (CHAT_PATH, chat("word " * 400), "messages"),
        (TEXT_PATH, {"prompt": "word " * 400, "max_tokens": 4}, "prompt"),
        (TEXT_PATH, {"prompt": ["a", "word " * 400]}, "prompt"),
        (TEXT_PATH, {"prompt": [5] * 600, "stream": True}, "prompt"),
    ],
)
def test_a_prompt_that_does_not_fit_is_rejected_in_openais_words(
    server: RunningServer, path: str, body: Any, param: str
) -> None:
    client = openai_client(server.url)
    with pytest.raises(openai.BadRequestError, match=f"maximum context length is {CONTEXT} tokens") as raised:
        client.post(path.removeprefix("/v1"), body=body, cast_to=object)
    error: Any = raised.value.body
    assert (error["code"], error["type"], error["param"]) == (
        "context_length_exceeded",
        "invalid_request_error",
        param,
    )
    assert f"However, your {param} resulted in" in error["message"]


def test_limits_of_the_server_are_those_of_the_prompt() -> None:
    limits = PromptLimits(context=512, max_prompt=200, max_new=50, strict=False)
    limits.check_prompt(200, "prompt")
    with pytest.raises(RequestError, match=r"context length is 512 tokens, and this server takes .* 200\. However"):
        limits.check_prompt(201, "prompt")
    assert limits.new_tokens(None, 100) == limits.new_tokens(60, 100) == 50
    assert limits.new_tokens(7, 100) == 7


@pytest.mark.parametrize("prompt", range(505, 513))
@pytest.mark.parametrize("requested", [1, 3, 9])
def test_an_answer_that_fits_exactly_is_not_clamped(prompt: int, requested: int) -> None:
    """The engine need not store the last token, so a prompt of 510 tokens can have 3 more in a context of 512."""
    tokens = PromptLimits(512, 512, None, strict=False).new_tokens(requested, prompt)
    assert 1 <= tokens <= requested
    assert prompt + tokens - 1 <= 512
    assert tokens == requested or prompt + requested - 1 > 512
    vllm = PromptLimits(512, 511, None, strict=False).new_tokens(requested, min(prompt, 511))
    assert min(prompt, 511) + vllm <= 512


def usage(server: RunningServer, body: Any, path: str = CHAT_PATH) -> tuple[int, str | None]:
    response = server.post(path, body)
    assert response.status_code == 200, response.text
    return response.json()["usage"]["prompt_tokens"], response.headers.get("x-slm-truncated")


def test_the_oldest_turns_of_a_chat_are_dropped_and_no_more_than_needed(truncating_server: RunningServer) -> None:
    turns = [f"{number} " + "word " * 60 for number in range(7)]  # four of the user, three of the assistant

    def body(dropped: int) -> dict[str, Any]:
        messages = chat(*turns[2 * dropped :])["messages"]
        return {"messages": [{"role": "system", "content": "Be kind."}, *messages], "max_tokens": 8, "temperature": 0}

    counts = [truncating_server.post("/tokenize", {"prompt": rendered(body(n))}).json()["count"] for n in range(4)]
    fewest = next(dropped for dropped, count in enumerate(counts) if count <= CONTEXT - 8)
    assert 0 < fewest < 3
    tokens, header = usage(truncating_server, body(0))
    assert header == f"{fewest} turn{'s' * (fewest > 1)}"
    assert tokens == counts[fewest]


def rendered(body: Any) -> str:
    names = {"system": "System", "user": "User", "assistant": "Assistant"}
    turns = [f"{names[message['role']]}: {message['content']}" for message in body["messages"]]
    return "\n\n".join([*turns, "Assistant:"])


def test_a_chat_that_fits_is_not_changed(truncating_server: RunningServer) -> None:
    assert usage(truncating_server, chat("Hello", max_tokens=4))[1] is None


def test_the_latest_turn_is_never_cut(truncating_server: RunningServer) -> None:
    response = truncating_server.post(CHAT_PATH, chat("old", "answer", "word " * 600, max_tokens=4))
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(("requested", "room"), [(8, 8), (None, 16), (1000, 256)])
def test_the_end_of_a_text_is_kept_with_room_for_an_answer(
    truncating_server: RunningServer, requested: int | None, room: int
) -> None:
    ids = [5 + number % 200 for number in range(700)]
    body: Any = {"prompt": ids, "echo": True, "logprobs": 0, "temperature": 0}
    body |= {"max_tokens": requested} if requested else {}
    response = truncating_server.post(TEXT_PATH, body)
    assert response.headers["x-slm-truncated"] == f"{700 - (CONTEXT - room)} tokens"
    answer = response.json()
    assert answer["usage"]["prompt_tokens"] == CONTEXT - room
    kept = truncating_server.post("/detokenize", {"tokens": ids[-(CONTEXT - room) :]}).json()["prompt"]
    assert answer["choices"][0]["text"].startswith(kept)


def test_streams_say_that_they_are_truncated(truncating_server: RunningServer) -> None:
    response = truncating_server.post(TEXT_PATH, {"prompt": [5] * 513, "max_tokens": 1, "stream": True})
    assert response.headers["x-slm-truncated"] == "2 tokens"
