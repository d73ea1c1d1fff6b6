"""Streams: clients that disconnect, and the interval between events."""

import json
from pathlib import Path

import pytest

from slm_testing.serve.open_streams import LONG_REQUEST, is_idle, open_stream
from slm_testing.serve.running_server import RunningServer, running_server
from slm_testing.serve.waiting import wait_until


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["/generate", "/v1/completions", "/v1/chat/completions"])
def test_a_client_that_disconnects_frees_its_pages(slow_server: RunningServer, stream: bool, path: str) -> None:
    limits = {"max_tokens": 480, "ignore_eos": True}
    body = {
        "/generate": LONG_REQUEST,
        "/v1/completions": {"prompt": "a b c"} | limits,
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}]} | limits,
    }[path] | {"stream": stream}
    connection = open_stream(slow_server, body, path)
    wait_until(lambda: slow_server.engine.pool.used_pages > 0)
    (sequence,) = slow_server.engine.scheduler.running
    connection.close()
    wait_until(lambda: is_idle(slow_server))
    assert sequence.handle.finish_reason == "cancelled"
    assert len(sequence.handle.token_ids) < 400


def test_a_closed_answer_frees_its_pages_within_two_steps(slow_server: RunningServer) -> None:
    connection = open_stream(slow_server, LONG_REQUEST | {"stream": True})
    wait_until(lambda: slow_server.engine.pool.used_pages > 0)
    (answer,), (sequence,) = slow_server.service._answers, slow_server.engine.scheduler.running
    before = len(sequence.handle.token_ids)
    slow_server.loop.call_soon_threadsafe(answer.close)
    wait_until(lambda: slow_server.engine.pool.used_pages == 0)
    assert len(sequence.handle.token_ids) <= before + 2
    connection.close()
    wait_until(lambda: is_idle(slow_server))


def test_tokens_within_the_interval_are_sent_together_and_none_is_lost(tiny_model: Path) -> None:
    body = {"prompt": "Once", "max_tokens": 40, "temperature": 0, "ignore_eos": True, "logprobs": 0}
    with running_server(model_path=str(tiny_model), stream_interval=60) as server:
        whole = server.post("/v1/completions", body).json()["choices"][0]
        events = server.post("/v1/completions", body | {"stream": True}).text.split("\n\n")
    first, rest = (json.loads(event.removeprefix("data: "))["choices"][0] for event in events[:2])
    assert events[2:] == ["data: [DONE]", ""]
    assert len(first["logprobs"]["tokens"]) == 1  # the first token is sent immediately
    assert first["text"] + rest["text"] == whole["text"]
    for name in ("tokens", "text_offset", "token_logprobs"):
        assert first["logprobs"][name] + rest["logprobs"][name] == whole["logprobs"][name]
