"""Requests without a token limit keep their text at a deadline; others get 504."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from slm_serve import service
from slm_testing.serve.open_streams import is_idle
from slm_testing.serve.running_server import RunningServer, delayed, running_server
from slm_testing.serve.waiting import wait_until

STEP, DEADLINE = 0.1, 1  # seconds: even the 16 tokens that /v1/completions generates by default take longer
GREEDY = {"temperature": 0}
BODIES: dict[str, dict[str, Any]] = {
    "/generate": {"prompt": "a b c", **GREEDY},
    "/v1/completions": {"prompt": "a b c", **GREEDY, "ignore_eos": True, "logprobs": 1, "echo": True},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}], **GREEDY, "ignore_eos": True},
}
LIMITS = {
    "/generate": "max_new_tokens",
    "/v1/completions": "max_tokens",
    "/v1/chat/completions": "max_completion_tokens",
}


@pytest.fixture(scope="module")
def deadline_server(tiny_model: Path) -> Iterator[RunningServer]:
    settings: dict[str, Any] = {"request_timeout": DEADLINE, "max_sequences": 4, "speculate": "off"}  # one token a step
    with running_server(model_path=str(tiny_model), **settings) as running:
        yield running


@pytest.fixture
def slow_server(deadline_server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> RunningServer:
    monkeypatch.setattr(deadline_server.engine, "step", delayed(deadline_server.engine.step, STEP))
    return deadline_server


def post_all(server: RunningServer, bodies: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Send a request to each path at the same time, and return the responses."""
    with ThreadPoolExecutor(len(bodies)) as threads:
        return dict(zip(bodies, threads.map(server.post, bodies, bodies.values()), strict=True))


def text_and_tokens(path: str, body: Any) -> tuple[str, int]:
    if path == "/generate":
        return body["text"], body["completion_tokens"]
    (choice,) = body["choices"]
    return choice["text"] if "text" in choice else choice["message"]["content"], body["usage"]["completion_tokens"]


def finish_reasons(path: str, body: Any) -> list[str]:
    return [body["finish_reason"]] if path == "/generate" else [choice["finish_reason"] for choice in body["choices"]]


def events(text: str) -> list[Any]:
    data = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert data[-1] == "[DONE]"
    return [json.loads(line) for line in data[:-1]]


def test_a_text_without_a_limit_ends_at_the_deadline_as_if_its_tokens_had_been_the_limit(
    slow_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("slm_finished_texts_total", "slm_generation_tokens_total")
    finished_before, tokens_before = map(slow_server.metric, names)
    cut = post_all(slow_server, BODIES)
    assert {path: response.status_code for path, response in cut.items()} == dict.fromkeys(BODIES, 200)
    generated = {path: text_and_tokens(path, response.json())[1] for path, response in cut.items()}
    assert slow_server.metric("slm_finished_texts_total") == finished_before + 3
    assert slow_server.metric("slm_generation_tokens_total") == tokens_before + sum(generated.values())
    monkeypatch.undo()  # the same again without a pause, with these numbers of tokens as limits
    limited = post_all(slow_server, {path: BODIES[path] | {LIMITS[path]: generated[path]} for path in BODIES})
    for path, response in cut.items():
        assert 0 < generated[path] < 16
        assert finish_reasons(path, response.json()) == ["length"]
        assert without_variable_fields(response.json()) == without_variable_fields(limited[path].json())
    wait_until(lambda: is_idle(slow_server))


def without_variable_fields(body: dict[str, Any]) -> dict[str, Any]:
    """Return a body without its id and its times, and with rounded log-probabilities."""
    variable = {"id", "created", "seconds", "time_to_first_token", "tokens_per_second"}
    rounded = json.loads(json.dumps(body), parse_float=lambda number: round(float(number), 3))
    return {name: value for name, value in rounded.items() if name not in variable}


def test_a_stream_without_a_limit_ends_at_the_deadline_with_a_normal_last_event(
    slow_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = {"stream_options": {"include_usage": True}}
    bodies = {path: body | {"stream": True} | (usage if "/v1" in path else {}) for path, body in BODIES.items()}
    streamed = {path: events(response.text) for path, response in post_all(slow_server, bodies).items()}
    monkeypatch.undo()
    whole = streamed["/generate"][-1]
    assert whole["finish_reason"] == "length"
    assert 0 < whole["completion_tokens"] < 16
    for path in ("/v1/completions", "/v1/chat/completions"):
        *chunks, last, totals = streamed[path]
        assert [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]] == [None] * len(chunks)
        assert finish_reasons(path, last) == ["length"]
        tokens = totals["usage"]["completion_tokens"]
        limited = slow_server.post(path, BODIES[path] | {LIMITS[path]: tokens}).json()
        choices = [choice for chunk in (*chunks, last) for choice in chunk["choices"]]
        pieces = [choice["text"] if "text" in choice else choice["delta"]["content"] for choice in choices]
        assert "".join(pieces) == text_and_tokens(path, limited)[0]


def test_each_of_several_choices_keeps_its_own_text(slow_server: RunningServer) -> None:
    body = {"prompt": ["a b c", "d e"], "n": 3, "ignore_eos": True, "logprobs": 0}  # four run, two wait
    completion = slow_server.post("/v1/completions", body).json()
    tokens = [len(choice["logprobs"]["tokens"]) for choice in completion["choices"]]
    assert finish_reasons("/v1/completions", completion) == ["length"] * 6
    assert [count > 0 for count in tokens] == [True] * 4 + [False] * 2
    assert completion["usage"]["completion_tokens"] == sum(tokens)
    assert [bool(choice["text"]) for choice in completion["choices"]] == [count > 0 for count in tokens]


def test_an_explicit_limit_that_is_not_reached_is_504(slow_server: RunningServer) -> None:
    responses = post_all(slow_server, {path: body | {LIMITS[path]: 100} for path, body in BODIES.items()})
    for response in responses.values():
        assert response.status_code == 504
        assert f"{DEADLINE} s" in response.text


def test_a_deadline_before_the_first_token_is_504(
    deadline_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_step() -> list[Any]:
        time.sleep(0.02)
        return []

    monkeypatch.setattr(deadline_server.engine, "step", no_step)
    responses = post_all(deadline_server, BODIES)
    assert {path: response.status_code for path, response in responses.items()} == dict.fromkeys(BODIES, 504)
    monkeypatch.undo()
    wait_until(lambda: is_idle(deadline_server))


def test_a_step_that_takes_too_long_after_the_deadline_is_504(
    deadline_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, released = deadline_server.engine.step, threading.Event()

    def step_and_block() -> Any:
        updates = step()
        released.wait(30)
        return updates

    monkeypatch.setattr(service, "FINISH_SECONDS", 0.1)
    monkeypatch.setattr(deadline_server.engine, "step", step_and_block)
    assert deadline_server.post("/v1/chat/completions", BODIES["/v1/chat/completions"]).status_code == 504
    released.set()
    wait_until(lambda: is_idle(deadline_server))


def test_texts_without_a_limit_are_kept_when_draining_takes_too_long(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "/v1/chat/completions"
    with running_server(model_path=str(tiny_model), drain_timeout=1) as server, ThreadPoolExecutor(2) as threads:
        monkeypatch.setattr(server.engine, "step", delayed(server.engine.step, STEP))
        unlimited = threads.submit(server.post, path, BODIES[path])
        limited = threads.submit(server.post, path, BODIES[path] | {LIMITS[path]: 100})
        wait_until(lambda: server.metric("slm_running") == 2)
        server.loop.call_soon_threadsafe(server.service.drain)
        assert limited.result().status_code == 504
        assert unlimited.result().status_code == 200
        assert finish_reasons(path, unlimited.result().json()) == ["length"]
        assert text_and_tokens(path, unlimited.result().json())[1] > 0
