"""The FastAPI application: routes, middleware and exception handlers around a Service."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from slm_serve import __version__
from slm_serve.http.browser_checks import CrossOriginMiddleware, HostMiddleware
from slm_serve.http.connections.limits import ConnectionLimits
from slm_serve.http.connections.refusals import RefusalLog
from slm_serve.http.connections.registry import Connections
from slm_serve.http.exception_handlers import add_exception_handlers, is_openai_path
from slm_serve.http.middleware import (
    ApiKeyMiddleware,
    BodySizeLimitMiddleware,
    PathMiddleware,
    ResponseCountMiddleware,
)
from slm_serve.http.request_body import IGNORED_HEADER, add_request_bodies
from slm_serve.http.request_id import RequestIdMiddleware
from slm_serve.http.routes import (
    adapters,
    chat,
    completions,
    embeddings,
    generate,
    playground,
    responses,
    system,
    tokens,
)
from slm_serve.service import Service
from slm_serve.settings import Settings, unknown_variables

EXPOSED_HEADERS = ("x-request-id", IGNORED_HEADER, "retry-after")  # that pages which CORS allows may read
logger = logging.getLogger("slm_serve")


class ServeApp(FastAPI):
    """FastAPI whose OpenAPI schema has none of its own 422 under /v1: invalid requests get 400 there."""

    def openapi(self) -> dict[str, Any]:
        schema = super().openapi()
        add_request_bodies(schema, self.routes)
        for path, methods in schema["paths"].items():
            for operation in methods.values():
                responses = operation["responses"]
                if is_openai_path(path) and responses.get("422", {}).get("description") == "Validation Error":
                    del responses["422"]
        return schema

    def build_middleware_stack(self) -> ASGIApp:
        # Outside of Starlette's own error middleware, so that the response to an unexpected error has an id, too.
        return RequestIdMiddleware(PathMiddleware(super().build_middleware_stack()))


def create_app(settings: Settings | None = None) -> FastAPI:
    """Create the app; a factory for uvicorn.

    The model is loaded in the background after start-up. Until then ``/health/ready`` and all requests that need the
    model get 503. If it cannot be loaded, the process receives SIGTERM.

    Args:
        settings: taken from the environment if None.

    Raises pydantic's ValidationError for settings out of range.
    """
    settings = settings or Settings()
    for name in unknown_variables():
        logger.warning("%s is not a setting of slm-serve; see slm-serve --help", name)
    service = Service(settings)
    service.on_load_failure = lambda: _terminate(service)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        service.start()
        try:
            yield {"connections": app.state.connections}
        finally:
            await service.stop()

    app = ServeApp(
        title="slm-serve",
        version=__version__,
        summary="Base and adapted language models.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's documentation pages load scripts from other hosts
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service, app.state.connections = service, _connections(settings, service)
    add_exception_handlers(app)
    for module in (generate, completions, chat, tokens, system, responses, embeddings, adapters, playground):
        app.include_router(module.router)
    app.mount("/static", playground.static_files)
    _add_middleware(app, settings, service)
    return app


def _add_middleware(app: FastAPI, settings: Settings, service: Service) -> None:
    """Add the middleware, from the innermost to the outermost."""
    app.add_middleware(BodySizeLimitMiddleware, max_bytes=settings.max_body_bytes)
    if settings.api_key:
        app.add_middleware(ApiKeyMiddleware, key=settings.api_key.get_secret_value())
    app.add_middleware(CrossOriginMiddleware, allowed_origins=settings.cors_origin)
    # Outside the API key: a browser sends CORS preflight requests without it.
    if settings.cors_origin:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origin,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=EXPOSED_HEADERS,
        )
    app.add_middleware(HostMiddleware, host=settings.host, allowed_hosts=settings.allowed_hosts)
    app.add_middleware(ResponseCountMiddleware, metrics=service.metrics)


def _connections(settings: Settings, service: Service) -> Connections:
    limits = ConnectionLimits(
        connections=settings.max_connections,
        head_seconds=settings.header_timeout,
        body_seconds=settings.body_timeout,
        send_seconds=settings.send_timeout,
    )
    return Connections(limits, RefusalLog(lambda status: service.metrics.count_response("refused", status)))


def _terminate(service: Service) -> None:
    logger.error("slm-serve: %s", service.load_failure)
    os.kill(os.getpid(), signal.SIGTERM)
