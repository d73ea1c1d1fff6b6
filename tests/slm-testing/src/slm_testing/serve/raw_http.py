"""Bytes on a socket: requests that no client library would send, and what comes back."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn

from slm_testing.serve.waiting import TIMEOUT, wait_until


@dataclass(frozen=True)
class RawAnswer:
    """Everything that a server sent until it closed the connection, or until the client stopped waiting."""

    content: bytes
    closed: bool

    @property
    def status(self) -> int:
        """The status of the first response; 0 if there is none."""
        return int(self.content.split(b" ", 2)[1]) if self.content else 0

    @property
    def head(self) -> str:
        return self.content.partition(b"\r\n\r\n")[0].decode("latin-1").lower()

    @property
    def body(self) -> bytes:
        return self.content.partition(b"\r\n\r\n")[2]

    @property
    def data(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def connect(port: int, *, receive_buffer: int | None = None) -> socket.socket:
    """Return a connection whose operations fail after ``TIMEOUT``. ``receive_buffer`` is its size in bytes."""
    connection = socket.socket()
    connection.settimeout(TIMEOUT)
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.connect(("127.0.0.1", port))
    return connection


def exchange(port: int, *pieces: bytes, pause: float = 0, until: bytes | None = None) -> RawAnswer:
    """Send ``pieces`` with a ``pause`` between them, and read until the server closes or has sent ``until``."""
    with connect(port) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
        except ConnectionError:
            pass  # the server has already refused the rest
        return read_answer(connection, until)


def read_answer(connection: socket.socket, until: bytes | None = None) -> RawAnswer:
    """Read until the server closes the connection or has sent ``until``."""
    content = b""
    try:
        while until is None or until not in content:
            data = connection.recv(65536)
            if not data:
                return RawAnswer(content, True)
            content += data
    except ConnectionResetError:
        return RawAnswer(content, True)
    return RawAnswer(content, False)


@contextmanager
def running_app(app: Any, protocol: type, **options: Any) -> Iterator[tuple[uvicorn.Server, int]]:
    """Run an ASGI app on a thread; yield its server and port."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=protocol, ws="none", log_config=None, **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield server, listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(TIMEOUT)
        assert not thread.is_alive()
