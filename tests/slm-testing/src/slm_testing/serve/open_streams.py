"""Connections that send a request and do not read the response, and a check that a server has become idle."""

import socket
from typing import Any

import httpx

from slm_testing.serve.raw_http import connect
from slm_testing.serve.running_server import RunningServer

# A request whose text is long enough that it is still running when a test looks at it.
LONG_REQUEST = {"prompt": "a b c", "max_new_tokens": 500, "temperature": 0}


def open_stream(
    server: RunningServer, body: Any, path: str = "/generate", *, receive_buffer: int | None = None
) -> socket.socket:
    """Send a request and return its connection without reading from it."""
    content = httpx.Request("POST", server.url + path, json=body).content
    host, port = server.url.removeprefix("http://").split(":")
    connection = connect(int(port), receive_buffer=receive_buffer)
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return connection


def is_idle(server: RunningServer) -> bool:
    """Whether the server has no pages in use, no sequences and no answers."""
    return server.engine.load().pages_used == 0 and not server.engine.busy and not server.service._answers
