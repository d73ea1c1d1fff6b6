"""The HTTP protocol: what is refused before it reaches the app, and how long clients may take."""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from slm_serve.http import protocol
from slm_serve.http.connections.limits import ConnectionLimits
from slm_serve.http.connections.refusals import RefusalLog
from slm_serve.http.connections.registry import Connections
from slm_serve.http.protocol import HttpProtocol
from slm_testing.serve.raw_http import connect, exchange, read_answer, running_app
from slm_testing.serve.waiting import wait_until

LIMITS = ConnectionLimits(connections=20, head_seconds=0.6, body_seconds=0.6, send_seconds=0.6)
LARGE = 8 * 2**20  # bytes, more than the buffers of the kernel hold
GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
CLOSE = b"Connection: close\r\n\r\n"


class EchoApp:
    """Answers with the request as JSON; ``/large`` with many bytes, ``/stream`` in pieces, ``/wait`` never."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.refused: list[int] = []
        self.connections = Connections(limits, RefusalLog(self.refused.append))
        self.disconnected = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            scope["state"]["connections"] = self.connections
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        body, message = b"", {"more_body": True}
        while message.get("more_body") or scope["path"] == "/wait":
            message = await receive()
            if message["type"] == "http.disconnect":
                self.disconnected += 1
                return
            body += message["body"]
        await self.respond(scope, body, send)

    async def respond(self, scope: Any, body: bytes, send: Any) -> None:
        names = sorted(name.decode("latin-1") for name, _ in scope["headers"])
        pieces = [json.dumps({"method": scope["method"], "headers": names, "body": body[:20].decode()}).encode()]
        headers = [(b"content-length", str(len(pieces[0])).encode())]
        if scope["path"] == "/large":
            headers, pieces = [], [bytes(LARGE)]
        if scope["path"] == "/stream":
            headers, pieces = [], [b"one ", b"two"]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture(scope="module")
def app() -> EchoApp:
    return EchoApp(LIMITS)


@pytest.fixture(scope="module")
def port(app: EchoApp) -> Iterator[int]:
    with running_app(app, HttpProtocol) as (_, port):
        yield port


MALFORMED = {
    "both lengths": POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both lengths, reversed": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
    "a signed length": POST + b"Content-Length: +4\r\n\r\nabcd",
    "an encoding after chunked": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a folded header": GET + b"X: a\r\n b\r\n\r\n",
    "a space before the colon": GET + b"X : a\r\n\r\n",
    "a NUL": GET + b"X: a\0b\r\n\r\n",
    "bare line feeds": b"GET / HTTP/1.1\nHost: a\n\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": GET + b"Host: b\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "CONNECT": b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
}


@pytest.mark.parametrize("request_bytes", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_or_ambiguous_request_is_400_and_ends_the_connection(port: int, request_bytes: bytes) -> None:
    answer = exchange(port, request_bytes + GET + b"\r\n")
    assert answer.status == 400
    assert answer.closed
    assert answer.content.count(b"HTTP/1.1 ") - answer.body.count(b"HTTP/1.1 ") == 1  # nothing smuggled was answered


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (GET + b"".join(b"X%d: a\r\n" % n for n in range(100)) + CLOSE, 431),
        (GET + b"X: " + bytes(70_000).replace(b"\0", b"a") + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431),
        (GET + b"".join(b"X%d: a\r\n" % n for n in range(98)) + CLOSE, 200),
        (GET + b"X: " + b"a" * 60_000 + b"\r\n" + CLOSE, 200),
    ],
)
def test_limits_of_the_headers(port: int, request_bytes: bytes, status: int) -> None:
    assert exchange(port, request_bytes).status == status


@pytest.mark.parametrize(
    ("start", "status"),
    [(GET + b"X: ", 431), (CHUNKED + b"3;", 400), (CHUNKED + b"0\r\nX: ", 400)],
    ids=["headers", "a chunk extension", "a trailer"],
)
def test_what_never_ends_is_refused_before_it_fills_the_memory(port: int, start: bytes, status: int) -> None:
    sent = 0
    with connect(port) as connection:
        try:
            connection.sendall(start)
            while sent < 100 * 2**20:
                sent += connection.send(b"a" * 65536)
        except ConnectionError:
            pass
    assert sent < 20 * 2**20  # with the buffers of the kernel
    assert exchange(port, start, *[b"a" * 65536] * 4).status == status


def test_an_error_under_v1_has_openais_format(port: int) -> None:
    answer = exchange(port, b"GET /v1/models HTTP/1.1\r\n" + b"".join(b"X%d: a\r\n" % n for n in range(102)))
    assert answer.data["error"]["message"].endswith("send fewer")


def test_trailers_do_not_become_headers_and_small_chunks_are_read(port: int) -> None:
    chunks = b"1\r\na\r\n" * 2000 + b"0\r\nAuthorization: Bearer x\r\n\r\n"
    answer = exchange(port, CHUNKED.replace(b"Host: a", b"Host: a\r\nConnection: close"), chunks)
    assert answer.data["headers"] == ["connection", "host", "transfer-encoding"]
    assert answer.data["body"] == "a" * 20


@pytest.mark.parametrize(
    "pieces", [[GET], [GET, b"X: a\r\n", b"X: a\r\n"], [POST + b"Content-Length: 9\r\n\r\na", b"a", b"a"]]
)
def test_a_request_that_arrives_too_slowly_is_408(port: int, pieces: list[bytes]) -> None:
    answer = exchange(port, *pieces, pause=0.25)
    assert answer.status == 408
    assert "0.6 s" in answer.data["detail"]


@pytest.mark.parametrize("pieces", [[], [b"\r\n"] * 4])
def test_a_connection_without_a_request_is_closed_silently(port: int, pieces: list[bytes]) -> None:
    answer = exchange(port, *pieces, pause=0.25)
    assert answer.content == b""
    assert answer.closed


def test_the_app_learns_that_a_body_will_not_arrive(app: EchoApp, port: int) -> None:
    before = app.disconnected
    assert exchange(port, POST + b"Content-Length: 9\r\n\r\na").status == 408
    wait_until(lambda: app.disconnected == before + 1)


@pytest.mark.parametrize("connection", [b"", b"Connection: keep-alive\r\n"])
def test_a_stream_for_http_1_0_has_no_chunks_and_ends_with_the_connection(port: int, connection: bytes) -> None:
    answer = exchange(port, b"GET /stream HTTP/1.0\r\n" + connection + b"\r\n")
    assert answer.body == b"one two"
    assert "chunked" not in answer.head
    assert "connection: close" in answer.head
    assert b"4\r\none \r\n3\r\ntwo\r\n0" in exchange(port, b"GET /stream HTTP/1.1\r\nHost: a\r\n" + CLOSE).body


def test_pipelined_requests_are_answered_in_order_up_to_a_limit(port: int) -> None:
    requests = b"".join(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n%d" % n for n in range(5))
    content = exchange(port, requests + GET + CLOSE).content
    assert [content.index(b'"body": "%d"' % n) for n in range(5)] == sorted(
        content.index(b'"body": "%d"' % n) for n in range(5)
    )
    assert content.count(b"200 OK") == 6
    assert exchange(port, (GET + b"\r\n") * 40).content.count(b"200 OK") == 0


def test_expect_100_continue_asks_for_the_body(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(POST + b"Connection: close\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        assert read_answer(connection, b"\r\n\r\n").status == 100
        connection.sendall(b"abcd")
        assert read_answer(connection).data["body"] == "abcd"


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c"])
def test_another_protocol_is_not_offered_and_the_request_is_answered(port: int, protocol: bytes) -> None:
    headers = b"Connection: Upgrade\r\nUpgrade: %b\r\nContent-Length: 4\r\n\r\nabcd" % protocol
    with connect(port) as connection:
        for _ in range(2):
            connection.sendall(POST + headers)
            answer = read_answer(connection, b"}")
            assert answer.status == 200
            assert answer.data["body"] == "abcd"


@pytest.mark.parametrize("path", [b"/large", b"/wait"])
def test_other_clients_are_served_while_connections_stall(port: int, path: bytes, app: EchoApp) -> None:
    """``/large`` fills its buffers; ``/wait`` is a request in progress, which is never closed to make room."""
    before = app.disconnected
    with ExitStack() as stack:
        stalled = [stack.enter_context(connect(port)) for _ in range(LIMITS.connections - 2)]
        for connection in stalled:
            connection.sendall(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path)
        for _ in range(3):
            assert exchange(port, GET + CLOSE).status == 200
        assert app.disconnected == before
    wait_until(lambda: not app.connections.blocked and (path == b"/large" or app.disconnected > before))


def test_a_client_that_does_not_read_is_disconnected_and_its_bytes_are_dropped(app: EchoApp, port: int) -> None:
    with connect(port, receive_buffer=4096) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: app.connections.blocked)
        wait_until(lambda: not app.connections.blocked)
        assert len(read_answer(connection).content) < LARGE / 2


def test_connections_that_close_by_themselves_while_the_server_stops_cause_no_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(protocol, "STOP_SECONDS", 0.1)
    app = EchoApp(LIMITS)
    with running_app(app, HttpProtocol) as (server, port), connect(port) as idle, connect(port) as busy:
        idle.sendall(GET + b"\r\n")
        assert idle.recv(100)
        busy.sendall(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: len(server.server_state.tasks) == 1)
        server.should_exit = True
        assert read_answer(idle).closed
        time.sleep(0.4)
        busy.close()
        wait_until(lambda: app.disconnected == 1)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_a_client_that_reads_slowly_gets_everything(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n" + CLOSE)
        assert len(read_answer(connection).content) > LARGE


def test_connections_without_a_request_make_room_for_new_ones(app: EchoApp, port: int) -> None:
    app.refused.clear()
    with ExitStack() as stack:
        idle = [stack.enter_context(connect(port)) for _ in range(LIMITS.connections + 5)]
        assert exchange(port, GET + CLOSE).status == 200
        assert read_answer(idle[0]).closed
    assert len(app.refused) >= 5


def test_with_too_many_requests_in_progress_a_new_connection_gets_503(app: EchoApp, port: int) -> None:
    before = app.disconnected
    with ExitStack() as stack:
        for _ in range(LIMITS.connections):
            stack.enter_context(connect(port)).sendall(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: not app.connections.waiting)
        assert exchange(port).status == 503
    wait_until(lambda: app.disconnected == before + LIMITS.connections)
    assert exchange(port, GET + CLOSE).status == 200


def test_refusals_are_logged_once_in_a_while(port: int, app: EchoApp, caplog: pytest.LogCaptureFixture) -> None:
    app.connections.log._logged_at = -100
    app.refused.clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(20):
            exchange(port, b"nonsense\r\n\r\n")
    assert app.refused == [400] * 20
    assert len(caplog.records) == 1
