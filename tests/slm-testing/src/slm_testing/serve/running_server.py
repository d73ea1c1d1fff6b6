"""A server on a free port of this machine, run on a thread."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import FastAPI

from slm_serve import Server, Settings, create_app
from slm_testing.serve.http_clients import NO_CERTIFICATES
from slm_testing.serve.waiting import TIMEOUT, wait_until


@dataclass
class RunningServer:
    """A server that responds at ``url``."""

    url: str
    app: FastAPI
    server: Server

    @property
    def service(self) -> Any:
        return self.app.state.service

    @property
    def engine(self) -> Any:
        return self.service.backend._engine

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self.server.servers[0].get_loop()

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return self.request("POST", path, json=body, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return httpx.request(method, f"{self.url}{path}", timeout=TIMEOUT, verify=NO_CERTIFICATES, **options)

    def stream(self, path: str, body: Any) -> AbstractContextManager[httpx.Response]:
        """Send a POST request whose response is read in pieces."""
        return httpx.stream("POST", f"{self.url}{path}", json=body, timeout=TIMEOUT, verify=NO_CERTIFICATES)

    def metric(self, name: str) -> float:
        """Return a value of /metrics, summed over its labels."""
        lines = self.get("/metrics").text.splitlines()
        values = [line.rpartition(" ")[2] for line in lines if line.partition("{")[0].split(" ")[0] == name]
        return sum(map(float, values))


@contextmanager
def running_server(
    *, wait_for_model: bool = True, send_buffer: int | None = None, **settings: Any
) -> Iterator[RunningServer]:
    """Run a server with ``settings``, in float32 unless they say otherwise.

    By default it is yielded once its model is loaded or could not be loaded.

    ``send_buffer`` is the size of the kernel's buffer for each connection in bytes.
    """
    parsed = Settings(**{"dtype": "float32", "threads": 1, "port": 0, "stream_interval": 0, **settings})
    app, listening = create_app(parsed), socket.create_server(("127.0.0.1", 0))
    if send_buffer:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    server, port = Server(app, parsed), listening.getsockname()[1]
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    service = app.state.service
    try:
        wait_until(lambda: server.started)
        if wait_for_model:
            wait_until(lambda: not service.is_loading)
        yield RunningServer(f"http://127.0.0.1:{port}", app, server)
    finally:
        server.should_exit = True
        thread.join(TIMEOUT)
        assert not thread.is_alive()


def delayed(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    """Return ``function`` with a pause before each call."""

    def call(*args: Any) -> Any:
        time.sleep(seconds)
        return function(*args)

    return call
