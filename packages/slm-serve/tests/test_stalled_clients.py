"""Clients that do not read their answers: they lose their places, and the others are served."""

import logging
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slm_serve.http import streams
from slm_testing.serve.open_streams import is_idle, open_stream
from slm_testing.serve.raw_http import connect, read_answer
from slm_testing.serve.running_server import RunningServer, running_server
from slm_testing.serve.waiting import wait_until

BUFFER = 4096  # bytes of the kernel's buffers on both sides
# More text than fits into the buffers of the kernel and of the server.
LONG = {"prompt": ["a b c"] * 2, "max_tokens": 480, "ignore_eos": True, "logprobs": 20, "temperature": 0}
SHORT = {"prompt": "a", "max_tokens": 2}
DEADLINE = 3.0


@pytest.fixture
def server(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningServer]:
    """A server for two texts at once whose clients have time until the deadline to read their answers."""
    monkeypatch.setattr(streams, "LAST_SECONDS", 0.2)
    limits: dict[str, Any] = {"request_timeout": DEADLINE, "max_sequences": 2, "max_queue": 0, "send_timeout": 60}
    with running_server(model_path=str(tiny_model), send_buffer=BUFFER, **limits) as running:
        yield running


def blocked(server: RunningServer) -> int:
    return len(server.app.state.connections.blocked)


@pytest.mark.parametrize("stream", [True, False])
def test_finished_texts_free_their_places_although_nobody_reads_them(tiny_model: Path, stream: bool) -> None:
    limits: dict[str, Any] = {"max_sequences": 2, "max_queue": 0, "send_timeout": 60, "send_buffer": BUFFER}
    with (
        running_server(model_path=str(tiny_model), **limits) as server,
        open_stream(server, LONG | {"stream": stream}, "/v1/completions", receive_buffer=BUFFER),
    ):
        wait_until(lambda: blocked(server) and not server.engine.busy)
        assert server.engine.load().pages_used == 0
        assert server.post("/v1/completions", SHORT).status_code == 200
        assert blocked(server) == 1


def test_a_stream_that_is_not_read_is_cancelled_at_the_deadline(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    step = server.engine.step
    # The client stalls soon, and the rest is so slow that the deadline comes first.
    server.engine.step = lambda: (time.sleep(0.02 if blocked(server) else 0.004), step())[1]
    start = time.monotonic()
    with open_stream(server, LONG | {"stream": True}, "/v1/completions", receive_buffer=BUFFER) as connection:
        wait_until(lambda: blocked(server))
        assert server.post("/v1/completions", SHORT).status_code == 429
        wait_until(lambda: is_idle(server))
        assert time.monotonic() - start > DEADLINE
        wait_until(lambda: not blocked(server))
        assert read_answer(connection).closed
    assert server.post("/v1/completions", SHORT).status_code == 200
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_stream_that_is_read_gets_the_error_of_the_deadline(server: RunningServer) -> None:
    step = server.engine.step
    server.engine.step = lambda: (time.sleep(0.05), step())[1]
    response = server.post("/v1/completions", LONG | {"stream": True})
    assert '"code":"timeout"' in response.text


def test_a_client_that_does_not_read_is_disconnected_long_before_the_deadline(tiny_model: Path) -> None:
    settings: dict[str, Any] = {"send_timeout": 0.5, "send_buffer": BUFFER}
    with running_server(model_path=str(tiny_model), **settings) as server:
        for stream in (True, False):
            body = LONG | {"stream": stream}
            with open_stream(server, body, "/v1/completions", receive_buffer=BUFFER) as connection:
                wait_until(lambda: blocked(server))
                wait_until(lambda: not blocked(server) and is_idle(server))
                assert read_answer(connection).closed
        assert server.metric("slm_requests_total") >= 2


def test_sigterm_does_not_wait_for_clients_that_stall(tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings: dict[str, Any] = {"drain_timeout": 0.5, "send_buffer": BUFFER}
    with running_server(model_path=str(tiny_model), **settings) as server:
        port = int(server.url.rpartition(":")[2])
        head = b"POST /generate HTTP/1.1\r\nHost: localhost\r\n"
        idle, slow_head, slow_body = (connect(port) for _ in range(3))
        slow_head.sendall(head)
        slow_body.sendall(head + b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
        with open_stream(server, LONG | {"stream": True}, "/v1/completions", receive_buffer=BUFFER):
            wait_until(lambda: blocked(server))
            server.server._drain_seconds = 1.0
            start = time.monotonic()
            server.loop.call_soon_threadsafe(server.server.handle_exit, signal.SIGTERM, None)
            wait_until(lambda: not server.server.server_state.connections)
            assert time.monotonic() - start < 4
        for connection in (idle, slow_head, slow_body):
            assert read_answer(connection).closed
            connection.close()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
