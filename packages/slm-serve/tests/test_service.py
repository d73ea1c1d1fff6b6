"""How the server behaves when it is full, slow, left alone, attacked, or given a broken model."""

import base64
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from slm_testing.serve.running_server import Running, running, save_tiny, until

LONG = {"prompt": "a b c", "max_new_tokens": 500, "temperature": 0}


@pytest.fixture(scope="module")
def small(tiny: Path) -> Iterator[Running]:
    """Two at once and one that waits, of a tiny model."""
    limits = {"max_sequences": 2, "max_queue": 1, "max_body_bytes": 2000, "max_prompt_tokens": 200}
    with running(model_path=str(tiny), **limits) as found:
        yield found


@pytest.fixture
def slow(small: Running, monkeypatch: pytest.MonkeyPatch) -> Running:
    """The same, a step taking a while."""
    step = small.engine.step
    monkeypatch.setattr(small.engine, "step", lambda: (time.sleep(0.02), step())[1])
    return small


def open_stream(server: Running, body: Any, path: str = "/generate") -> socket.socket:
    """A connection that has asked and does not read."""
    content = httpx.Request("POST", server.url + path, json=body)
    host, port = server.url.removeprefix("http://").split(":")
    found = socket.create_connection((host, int(port)), timeout=30)
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    found.sendall(f"{head}Content-Length: {len(content.content)}\r\n\r\n".encode() + content.content)
    return found


def idle(server: Running) -> bool:
    return server.engine.pool.used_pages == 0 and not server.engine.busy and not server.service._answers


def test_a_full_queue_is_429_with_a_time_to_come_back(slow: Running) -> None:
    held = [open_stream(slow, LONG | {"stream": True}) for _ in range(3)]
    until(lambda: len(slow.service._answers) == 3)
    for path, body in [("/generate", LONG), ("/v1/completions", {"prompt": "a"})]:
        refused = slow.post(path, body)
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert slow.figure("slm_running") == 2
    assert slow.figure("slm_queue") == 1
    assert slow.get("/health/ready").status_code == 200
    for one in held:
        one.close()
    until(lambda: idle(slow))
    assert slow.post("/generate", {"prompt": "a", "max_new_tokens": 2}).status_code == 200


def test_more_texts_than_can_ever_be_taken_are_no_matter_of_time(small: Running) -> None:
    refused = small.post("/v1/completions", {"prompt": "a", "n": 4, "max_tokens": 2})
    assert refused.status_code == 400
    assert "takes 3 at once" in refused.text
    assert small.post("/v1/completions", {"prompt": "a", "n": 3, "max_tokens": 2}).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["/generate", "/v1/completions", "/v1/chat/completions"])
def test_a_client_that_goes_away_frees_its_pages(slow: Running, stream: bool, path: str) -> None:
    body = {
        "/generate": LONG | {"stream": stream},
        "/v1/completions": {"prompt": "a b c", "max_tokens": 500, "stream": stream},
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}], "max_tokens": 480, "stream": stream},
    }[path]
    client = open_stream(slow, body, path)
    until(lambda: slow.engine.pool.used_pages > 0)
    (sequence,) = slow.engine.scheduler.running
    client.close()
    until(lambda: idle(slow))
    assert sequence.handle.finish_reason == "cancelled"
    assert len(sequence.handle.token_ids) < 400


def test_a_closed_answer_frees_its_pages_within_two_steps(slow: Running) -> None:
    client = open_stream(slow, LONG | {"stream": True})
    until(lambda: slow.engine.pool.used_pages > 0)
    (answer,), (sequence,) = slow.service._answers, slow.engine.scheduler.running
    before = len(sequence.handle.token_ids)
    slow.service._backend._loop.call_soon_threadsafe(answer.close)
    until(lambda: slow.engine.pool.used_pages == 0)
    assert len(sequence.handle.token_ids) <= before + 2
    client.close()
    until(lambda: idle(slow))


def test_a_body_that_is_too_large_is_413_whatever_it_says_of_itself(small: Running) -> None:
    large = {"prompt": "a" * 3000}
    assert small.post("/generate", large).status_code == 413
    pieces = (b'{"prompt": "' + b"a" * 900, b"a" * 900, b"a" * 900 + b'"}')
    chunked = httpx.post(
        f"{small.url}/v1/completions", content=iter(pieces), headers={"Content-Type": "application/json"}, timeout=30
    )
    assert chunked.status_code == 413
    assert "2000 bytes" in chunked.json()["error"]["message"]


def test_a_prompt_above_the_servers_own_limit_is_refused(small: Running) -> None:
    refused = small.post("/generate", {"prompt": "a " * 300, "max_new_tokens": 2})
    assert refused.status_code == 422
    assert "this server takes 200" in refused.json()["detail"]


def test_an_error_within_one_request_ends_that_one_and_tells_nothing_of_the_server(
    small: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = small.engine._sample

    def trip(work: Any, logits: Any) -> None:
        if work.sequence.handle.params.seed == 666:
            raise RuntimeError("secret/path/model.py failed")
        sample(work, logits)

    monkeypatch.setattr(small.engine, "_sample", trip)
    with ThreadPoolExecutor(2) as clients:
        asked = {"prompt": "a b", "max_new_tokens": 20}
        fine = clients.submit(small.post, "/generate", asked)
        broken = clients.submit(small.post, "/generate", asked | {"seed": 666}).result()
        streamed = small.post("/v1/completions", {"prompt": "a", "seed": 666, "stream": True})
    assert fine.result().status_code == 200
    assert broken.status_code == 500
    assert broken.json()["detail"] == "the model failed on this request; the server's log says how"
    assert '"type":"server_error"' in streamed.text
    assert "secret" not in streamed.text
    assert small.get("/health/ready").status_code == 200


def test_an_engine_that_fails_answers_all_and_turns_red(tiny: Path) -> None:
    with running(model_path=str(tiny)) as server:

        def broken() -> None:
            raise RuntimeError("the plan is wrong")

        server.engine.step = broken
        for _ in range(2):
            answer = server.post("/generate", {"prompt": "a", "max_new_tokens": 3})
            assert answer.status_code == 503
        ready = server.get("/health/ready")
        assert ready.status_code == 503
        assert ready.json()["reason"].startswith("the engine failed")
        assert server.get("/health/live").status_code == 200


def test_logits_that_are_no_numbers_give_a_clear_500_and_a_red_light(tmp_path: Path) -> None:
    with running(model_path=str(save_tiny(tmp_path / "model", scale=3e38))) as server:
        assert server.get("/health/ready").status_code == 200
        broken = server.post("/generate", {"prompt": "a b", "max_new_tokens": 3})
        assert broken.status_code == 500
        assert "logit" in broken.json()["detail"]
        ready = server.get("/health/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "not ready")
        assert "logit" in ready.json()["reason"]
        assert server.get("/health/live").status_code == 200


def test_tokens_that_come_within_the_interval_go_together_and_none_is_lost(tiny: Path) -> None:
    body = {"prompt": "Once", "max_tokens": 40, "temperature": 0, "ignore_eos": True, "logprobs": 0}
    with running(model_path=str(tiny), stream_interval=60) as server:
        whole = server.post("/v1/completions", body).json()["choices"][0]
        streamed = server.post("/v1/completions", body | {"stream": True}).text.split("\n\n")
    first, rest = (json.loads(one.removeprefix("data: "))["choices"][0] for one in streamed[:2])
    assert streamed[2:] == ["data: [DONE]", ""]
    assert len(first["logprobs"]["tokens"]) == 1  # the first does not wait
    assert first["text"] + rest["text"] == whole["text"]
    for name in ("tokens", "text_offset", "token_logprobs"):
        assert first["logprobs"][name] + rest["logprobs"][name] == whole["logprobs"][name]


def test_a_deadline_is_504_and_an_event_in_a_stream(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(model_path=str(tiny), request_timeout=0.3) as server:
        step = server.engine.step
        monkeypatch.setattr(server.engine, "step", lambda: (time.sleep(0.02), step())[1])
        late = server.post("/generate", LONG)
        assert late.status_code == 504
        assert "0.3 s" in late.json()["detail"]
        assert server.post("/v1/completions", {"prompt": "a", "max_tokens": 500}).json()["error"]["code"] == "timeout"
        streamed = server.post("/generate", LONG | {"stream": True})
        assert streamed.status_code == 200
        assert "0.3 s" in streamed.text.split("\n\n")[-2]
        until(lambda: idle(server))


def test_a_key_is_asked_for_everywhere_but_health(tiny: Path) -> None:
    with running(model_path=str(tiny), api_key="s3cret", cors_origin=["https://page.example"]) as server:
        for path in ("/", "/metrics", "/v1/models", "/openapi.json", "/static/playground.js", "/nowhere"):
            refused = server.get(path)
            assert refused.status_code == 401
            assert "Bearer" in refused.headers["WWW-Authenticate"]
        assert server.get("/v1/models").json()["error"]["type"] == "authentication_error"
        for wrong in ("Bearer", "Bearer s3cre", "Bearer s3cret2", "Token s3cret", "Basic !", "Bearer ключ"):
            assert server.get("/v1/models", headers={"Authorization": wrong.encode()}).status_code == 401
        basic = base64.b64encode(b"anyone:s3cret").decode()
        for right in ("Bearer s3cret", "bearer s3cret", f"Basic {basic}"):
            assert server.get("/v1/models", headers={"Authorization": right}).status_code == 200
        assert server.get("/health/live").status_code == server.get("/health/ready").status_code == 200
        asking = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
        allowed = httpx.options(f"{server.url}/generate", headers=asking)
        assert allowed.headers["access-control-allow-origin"] == "https://page.example"
        other = httpx.options(f"{server.url}/generate", headers=asking | {"Origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers


def test_no_other_origin_is_allowed_unless_told(small: Running) -> None:
    answer = small.get("/v1/models", headers={"Origin": "https://page.example"})
    assert "access-control-allow-origin" not in answer.headers


def test_the_page_and_its_parts_are_served_with_a_policy(small: Running) -> None:
    page = small.get("/")
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    for part in ("playground.js", "protocol.js", "playground.css", "icon.svg"):
        assert small.get(f"/static/{part}").status_code == 200
        assert part == "protocol.js" or f"static/{part}" in page.text


def test_prompts_stay_out_of_the_log_unless_asked(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    for asked in (False, True):
        caplog.clear()
        with running(model_path=str(tiny), log_prompts=asked) as server, caplog.at_level("INFO"):
            server.post("/generate", {"prompt": "SECRET WORDS", "max_new_tokens": 2})
            server.post("/v1/completions", {"prompt": "SECRET WORDS", "max_tokens": 2})
            server.post("/generate", {"prompt": "SECRET WORDS", "max_new_tokens": 2, "stream": True})
        assert caplog.text.count("prompt: 'SECRET WORDS'") == (3 if asked else 0)


def test_while_it_loads_it_lives_and_is_not_ready(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from slm_serve import service

    real = service.load_backend
    monkeypatch.setattr(service, "load_backend", lambda *given: (time.sleep(1), real(*given))[1])
    from slm_testing.serve.running_server import Settings, create_app, uvicorn  # the parts of `running`, which waits

    app = create_app(Settings(model_path=str(tiny), threads=1))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None))
    with ThreadPoolExecutor(1) as threads:
        ran = threads.submit(server.run)
        until(lambda: server.started)
        found = Running(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", app)
        assert found.get("/health/live").status_code == 200
        assert found.get("/health/ready").json() == {"status": "not ready", "reason": "the model is loading"}
        early = found.post("/generate", {"prompt": "a"})
        assert (early.status_code, early.headers["Retry-After"]) == (503, "5")
        until(lambda: found.get("/health/ready").status_code == 200)
        server.should_exit = True
        ran.result(30)
