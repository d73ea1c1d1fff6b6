"""Request ids, HEAD, trailing slashes, health and version."""

import asyncio
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from slm_serve import Answer, __version__
from slm_serve.http.request_id import LOG_FORMAT, RequestIdFilter, RequestIdMiddleware
from slm_testing.serve.raw_http import exchange
from slm_testing.serve.running_server import RunningServer, running_server
from slm_testing.serve.waiting import wait_until

ID = "x-request-id"
HEADERS = {ID: "trace-1/2:3"}


def test_every_response_returns_the_id_of_its_request(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"api_key": "s3cret", "max_body_bytes": 1000}
    with running_server(model_path=str(tiny_model), **settings) as server:
        authorized = HEADERS | {"Authorization": "Bearer s3cret"}
        text = {"prompt": "a", "max_new_tokens": 2}
        responses = {
            401: server.get("/v1/models", headers=HEADERS),
            200: server.post("/generate", text | {"stream": True}, headers=authorized),
            413: server.post("/generate", {"prompt": "a" * 2000}, headers=authorized),
            422: server.post("/generate", {"prompt": 1}, headers=authorized),
            404: server.get("/nowhere", headers=authorized),
            421: server.get("/version", headers=authorized | {"Host": "evil.example"}),
        }
        monkeypatch.setattr(server.service, "served_model", lambda name: 1 / 0)
        responses[500] = server.post("/generate", text, headers=authorized)
    assert {status: response.status_code for status, response in responses.items()} == {key: key for key in responses}
    assert {response.headers[ID] for response in responses.values()} == {HEADERS[ID]}


@pytest.mark.parametrize("sent", [None, "", "a b", "ü", "a" * 129])
def test_an_id_that_does_not_belong_into_a_log_is_replaced(limited_server: RunningServer, sent: str | None) -> None:
    headers = {} if sent is None else {ID: sent.encode()}
    first, second = (limited_server.get("/version", headers=headers).headers[ID] for _ in range(2))
    assert first != second
    assert first.isalnum()
    assert len(first) == 32


def test_log_messages_about_a_request_have_its_id(
    limited_server: RunningServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.handler.addFilter(RequestIdFilter())
    caplog.handler.setFormatter(logging.Formatter(LOG_FORMAT))
    monkeypatch.setattr(limited_server.service, "served_model", lambda name: 1 / 0)
    assert limited_server.post("/generate", {"prompt": "a"}, headers=HEADERS).status_code == 500
    wait_until(lambda: f"ERROR [{HEADERS[ID]}] Exception in ASGI application" in caplog.text)
    logging.getLogger("slm_serve").error("about no request")
    assert "ERROR about no request" in caplog.text


def test_a_backend_logs_with_the_id_from_its_own_thread(caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.addFilter(RequestIdFilter())
    caplog.handler.setFormatter(logging.Formatter(LOG_FORMAT))
    answers: list[Answer] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        answers.append(Answer(1))

    scope = {"type": "http", "headers": [(ID.encode(), b"trace-2")]}
    unused: Any = None
    asyncio.run(RequestIdMiddleware(app)(scope, unused, unused))
    log = logging.getLogger("slm_serve").error
    thread = threading.Thread(target=lambda: answers[0].context.run(log, "a request failed"))
    thread.start()
    thread.join()
    assert "ERROR [trace-2] a request failed" in caplog.text


@pytest.mark.parametrize(
    "path", ["/", "/health", "/health/ready", "/version", "/v1/models", "/metrics", "/openapi.json"]
)
def test_head_is_get_without_a_body(limited_server: RunningServer, path: str) -> None:
    port = int(limited_server.url.rpartition(":")[2])
    request = f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    head, get = (exchange(port, request.replace("HEAD", method).encode()) for method in ("HEAD", "GET"))
    assert head.status == 200
    assert head.body == b""
    assert get.body
    if path != "/metrics":
        assert f"content-length: {len(get.body)}" in head.head


def test_head_of_a_route_that_needs_a_body_is_405(limited_server: RunningServer) -> None:
    assert limited_server.get("/generate").status_code == 405
    assert limited_server.request("HEAD", "/generate").status_code == 405


def test_paths_with_a_trailing_slash_are_answered(limited_server: RunningServer) -> None:
    body = {"prompt": "a", "max_tokens": 1}
    assert limited_server.post("/v1/completions/", body).json()["object"] == "text_completion"
    assert limited_server.get("/v1/models/").json() == limited_server.get("/v1/models").json()
    assert limited_server.get("/health/").status_code == 200
    assert limited_server.get("/nowhere/").status_code == 404


def test_health_and_version(limited_server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert limited_server.get("/version").json() == {"version": __version__}
    assert limited_server.get("/health").status_code == 200
    monkeypatch.setattr(limited_server.service, "_draining", True)
    assert limited_server.get("/health").status_code == 503
