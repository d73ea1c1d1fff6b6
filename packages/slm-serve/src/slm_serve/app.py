"""The application: routes over a service, behind guards."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from slm_serve import __version__
from slm_serve.http import exception_handlers as refusals
from slm_serve.http.exception_handlers import is_openai
from slm_serve.http.middleware import BodyLimit, Counted, KeyGuard
from slm_serve.http.routes import chat, completions, generate, tokens
from slm_serve.http.routes import system as about
from slm_serve.service import Service
from slm_serve.settings import Settings, unknown_variables

logger = logging.getLogger("slm_serve")


class App(FastAPI):
    """What is under /v1 answers 400 where FastAPI takes it for granted that a bad body gets 422: its schema says so."""

    def openapi(self) -> dict[str, Any]:
        found = super().openapi()
        for path, methods in found["paths"].items():
            for operation in methods.values():
                if is_openai(path):
                    operation["responses"].pop("422", None)
        return found


def create_app(settings: Settings | None = None) -> FastAPI:
    """The app for ``settings``, those of the environment unless given: a factory for uvicorn.

    The model loads once the app starts; until then ``/health/ready`` and all that needs it answer 503. Where it
    cannot be loaded, the process is told to stop, as by SIGTERM.

    Raises pydantic's ValidationError for settings out of range.
    """
    settings = settings or Settings()
    for name in unknown_variables():
        logger.warning("%s is no setting of slm-serve: see slm-serve --help", name)
    service = Service(settings)
    service.on_failure = lambda: _give_up(service)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            await service.stop()

    app = App(
        title="slm-serve",
        version=__version__,
        summary="Base and adapted language models.",
        lifespan=lifespan,
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
    )
    app.state.service = service
    refusals.install(app)
    for family in (generate, completions, chat, tokens, about):
        app.include_router(family.router)
    app.mount("/static", about.static)
    _guard(app, settings, service)
    return app


def _guard(app: FastAPI, settings: Settings, service: Service) -> None:
    """The last added is the outermost."""
    app.add_middleware(BodyLimit, most=settings.max_body_bytes)
    if settings.api_key:
        app.add_middleware(KeyGuard, key=settings.api_key.get_secret_value())
    if settings.cors_origin:
        app.add_middleware(CORSMiddleware, allow_origins=settings.cors_origin, allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(Counted, metrics=service.metrics)


def _give_up(service: Service) -> None:
    logger.error("slm-serve: %s", service.failure)
    os.kill(os.getpid(), signal.SIGTERM)
