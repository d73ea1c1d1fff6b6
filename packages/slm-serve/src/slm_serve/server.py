"""uvicorn around the app: the ready line, and how it ends."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import socket
import sys
from types import FrameType

import uvicorn
from fastapi import FastAPI

from slm_serve.app import create_app
from slm_serve.service import Service
from slm_serve.settings import Settings

BACKLOG = 2048  # connections that wait to be taken
AFTER_DRAINING = 5  # seconds for answers of 504 to be sent
logger = logging.getLogger("slm_serve")


class Server(uvicorn.Server):
    """Says when it is ready. The first signal drains, the second answers what is left with 503 and ends."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        config = uvicorn.Config(
            app,
            backlog=BACKLOG,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=int(settings.drain_timeout) + AFTER_DRAINING,
            server_header=False,
        )
        super().__init__(config)
        self._service: Service = app.state.service
        self._service.on_failure = self._give_up
        self._service.waits_for_loading = settings.backend == "vllm"  # it has processes of its own to end
        self._signals = 0
        self._telling: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        assert sockets
        self._address = sockets[0].getsockname()
        await super().startup(sockets)
        if self.started:
            self._telling = asyncio.get_running_loop().create_task(self._tell())

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Not uvicorn's own, which raises the signal again at the end: exit codes tell nothing then."""
        loop = asyncio.get_running_loop()
        self._signals += 1
        self.should_exit = True
        if self._signals == 1:
            logger.info("stopping once what runs is finished; a second signal stops at once")
            loop.call_soon_threadsafe(self._service.drain)
        elif self._signals == 2:
            loop.call_soon_threadsafe(self._service.drop)
        else:
            self.force_exit = True

    def _give_up(self) -> None:
        self.should_exit = True

    async def _tell(self) -> None:
        backend = await self._service.loaded()
        if backend:
            names = ", ".join(f"{one.name} ({one.kind})" for one in backend.served.values())
            print(f"{backend.summary}\nmodels: {names}\nready: {self._url}", flush=True)

    @property
    def _url(self) -> str:
        host, port = self._address[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(settings: Settings) -> int:
    """Serve until told to stop. The exit code: 0, or 2 for an address or a model that cannot be had."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # it says "running" before there is a model
    print(f"loading {settings.model_path}", flush=True)
    _warn_if_open(settings)
    try:
        listening = _listen(settings.host, settings.port)
    except OSError as refused:
        return _refuse(
            f"cannot listen on {settings.host}:{settings.port}: {refused.strerror}; give another --port or --host"
        )
    app = create_app(settings)
    Server(app, settings).run([listening])
    service: Service = app.state.service
    if service.is_loading:  # in a thread that cannot be told to stop
        sys.stdout.flush()
        os._exit(0)
    return _refuse(service.failure) if service.failure else 0


def serve_reloading(settings: Settings) -> int:
    """For developers: start anew when a file of the code changes. The settings travel in the environment."""
    os.environ.update(settings.environment())
    uvicorn.run("slm_serve.app:create_app", factory=True, reload=True, host=settings.host, port=settings.port)
    return 0


def _listen(host: str, port: int) -> socket.socket:
    """Taken before the model is loaded: a port that is not free is known at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


def _refuse(sentence: str) -> int:
    print(f"slm-serve: {sentence}", file=sys.stderr)
    return 2


def _warn_if_open(settings: Settings) -> None:
    if settings.api_key is None and not _is_loopback(settings.host):
        logger.warning("whoever reaches %s may use this server: set SLM_API_KEY to ask for a key", settings.host)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: nobody knows where it leads
        return False
