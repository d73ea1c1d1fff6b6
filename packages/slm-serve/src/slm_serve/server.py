"""The server process: uvicorn, the ready message, signals and exit codes."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from types import FrameType

import uvicorn
from fastapi import FastAPI

from slm_serve.app import create_app
from slm_serve.errors import StartError
from slm_serve.http.browser_checks import is_loopback
from slm_serve.http.protocol import HttpProtocol
from slm_serve.http.request_id import LOG_FORMAT, RequestIdFilter
from slm_serve.service import Service
from slm_serve.settings import Settings

BACKLOG = 2048  # connections waiting to be accepted
SECONDS_AFTER_DRAINING = 5.0  # for texts to end and for responses to be sent; then connections are aborted
SEND_BUFFER = 256 * 1024  # bytes; Linux would keep up to 4 MB for a client that does not read
OTHER_FILES = 200  # open files besides connections
logger = logging.getLogger("slm_serve")


class Server(uvicorn.Server):
    """uvicorn's server with a ready message and graceful shutdown.

    On the first signal it drains; on the second it fails unfinished requests with 503 and stops.
    """

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        self._drain_seconds = settings.drain_timeout + SECONDS_AFTER_DRAINING
        config = uvicorn.Config(
            app,
            backlog=BACKLOG,
            log_config=None,
            access_log=False,
            http=HttpProtocol,
            ws="none",
            server_header=False,
            # The last resort, for requests that do not end when their connection does.
            timeout_graceful_shutdown=int(self._drain_seconds) + 10,
        )
        super().__init__(config)
        self._service: Service = app.state.service
        self._service.on_load_failure = self._stop
        # vLLM starts processes while it loads, which must be ended; a loading engine of slm-kv can be abandoned.
        self._service.waits_for_loading = settings.backend == "vllm"
        self.output_error: BrokenPipeError | None = None  # nobody reads what the server prints
        self._signals = 0
        self._announcing: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start accepting connections, and announce the server once its model is loaded."""
        assert sockets
        self._address = sockets[0].getsockname()
        await super().startup(sockets)
        if self.started:
            self._announcing = asyncio.get_running_loop().create_task(self._announce())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting connections, wait for responses in progress, and abort connections that take too long.

        uvicorn's own limit, ``timeout_graceful_shutdown``, cancels requests, which logs a traceback for each of them.
        """
        timer = asyncio.get_running_loop().call_later(self._drain_seconds, self._abort_connections)
        await super().shutdown(sockets)
        timer.cancel()

    def _abort_connections(self) -> None:
        connections = list(self.server_state.connections)
        logger.warning("closing %d connections whose clients did not take their answers in time", len(connections))
        for connection in connections:
            assert isinstance(connection, HttpProtocol)
            connection.abort()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle SIGTERM and SIGINT.

        Replaces uvicorn's handler, which raises the signal again at the end: the exit code of a clean stop would
        be -15.
        """
        loop = asyncio.get_running_loop()
        self._signals += 1
        self.should_exit = True
        if self._signals == 1:
            logger.info("stopping after the running requests; a second signal stops immediately")
            loop.call_soon_threadsafe(self._service.drain)
        elif self._signals == 2:
            loop.call_soon_threadsafe(self._service.abort)
        else:
            self.force_exit = True

    def _stop(self) -> None:
        self.should_exit = True

    async def _announce(self) -> None:
        backend = await self._service.wait_until_loaded()
        if backend:
            models = ", ".join(f"{model.name} ({model.kind})" for model in backend.served.values())
            try:
                print(f"{backend.summary}\nmodels: {models}\nready: {self._url}", flush=True)
            except BrokenPipeError as error:
                self.output_error, self.should_exit = error, True

    @property
    def _url(self) -> str:
        host, port = self._address[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(settings: Settings) -> int:
    """Serve until a signal arrives, and return 0.

    Raises StartError if the address or the model is not available, BrokenPipeError if nobody reads the ready message.
    """
    _configure_logging()
    print(f"loading {settings.model_path}", flush=True)
    _warn_if_public(settings)
    _raise_file_limit(settings.max_connections)
    try:
        listening_socket = _listen(settings.host, settings.port)
    except OSError as error:
        raise StartError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; give another --port or --host"
        ) from error
    app = create_app(settings)
    service: Service = app.state.service
    if settings.backend != "vllm":
        service.before_loading = lambda: _import_in_part(settings)
    server = Server(app, settings)
    server.run([listening_socket])
    if service.is_loading:
        sys.stdout.flush()
        os._exit(0)  # the loading thread cannot be stopped
    if service.load_failure:
        raise StartError(service.load_failure)
    if server.output_error:
        raise server.output_error
    return 0


def serve_reloading(settings: Settings) -> int:
    """Serve and restart when a source file changes, for development.

    uvicorn runs the app in a subprocess, so the settings are passed in the environment.
    """
    os.environ.update(settings.environment())
    app, protocol = "slm_serve.app:create_app", "slm_serve.http.protocol:HttpProtocol"
    uvicorn.run(app, factory=True, reload=True, host=settings.host, port=settings.port, http=protocol, ws="none")
    return 0


def _import_in_part(settings: Settings) -> None:
    """Import torch and transformers without what this process, which only serves, does not use."""
    from slm_kv import import_modelling_code

    import_modelling_code(settings.device)


def _listen(host: str, port: int) -> socket.socket:
    """Open the socket before the model is loaded, so that a port in use is reported immediately."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening_socket = socket.create_server((host, port), family=family, backlog=BACKLOG)
    listening_socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # inherited by connections
    return listening_socket


def _configure_logging() -> None:
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    for handler in logging.getLogger().handlers:
        handler.addFilter(RequestIdFilter())
    # uvicorn logs "running" before the model is loaded, which would be misleading.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)


def _warn_if_public(settings: Settings) -> None:
    if settings.api_key is None and not is_loopback(settings.host):
        logger.warning("anyone who can reach %s may use this server; set SLM_API_KEY to require a key", settings.host)


def _raise_file_limit(connections: int) -> None:
    """Raise the soft limit of open files, 256 on macOS, if it is too low for ``connections``."""
    if sys.platform == "win32":
        return
    import resource

    needed = connections + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise StartError(f"max_connections is {connections} and this process may open {hard} files; lower it")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
