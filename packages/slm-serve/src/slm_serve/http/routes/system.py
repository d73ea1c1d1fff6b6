"""What the server says of itself: models, health, metrics; and the playground."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from slm_serve.backends.protocol import Backend, Served
from slm_serve.http.exception_handlers import documented
from slm_serve.http.responses import TheService
from slm_serve.http.schemas.openai_requests import ModelCard, ModelList

PAGE = Path(__file__).parents[2] / "page"
CREATED = 0  # the field is OpenAI's; when a model was made is not known
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

router = APIRouter()
static = StaticFiles(directory=PAGE)


class Alive(BaseModel):
    status: Literal["alive"] = "alive"


class Ready(BaseModel):
    status: Literal["ready"] = "ready"


class NotReady(BaseModel):
    """Why not."""

    status: Literal["not ready"] = "not ready"
    reason: str


@router.get("/v1/models", responses=documented(503, openai=True))
async def models(service: TheService) -> ModelList:
    """What is served by which name. The default answers where a request names none."""
    backend = service.backend
    return ModelList(data=[_card(backend, one) for one in backend.served.values()])


@router.get("/v1/models/{name:path}", responses=documented(404, 503, openai=True))
async def model(name: str, service: TheService) -> ModelCard:
    """One of them."""
    return _card(service.backend, service.model(name))


@router.get("/health/live")
async def live() -> Alive:
    """The process answers."""
    return Alive()


@router.get("/health/ready", response_model=Ready, responses={503: {"model": NotReady, "description": "not now"}})
async def ready(service: TheService) -> Response | Ready:
    """Whether requests should be sent here."""
    if service.trouble:
        return JSONResponse(NotReady(reason=service.trouble).model_dump(), 503)
    return Ready()


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **documented()},
)
async def metrics(service: TheService) -> Response:
    """For Prometheus."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/", include_in_schema=False)
async def playground() -> FileResponse:
    """A page to try the models on."""
    return FileResponse(PAGE / "index.html", headers=PAGE_HEADERS)


def _card(backend: Backend, served: Served) -> ModelCard:
    default = next(iter(backend.served)) == served.name
    return ModelCard(
        id=served.name,
        created=CREATED,
        max_model_len=backend.positions,
        kind=served.kind,
        parent=served.parent,
        weights=served.weights,
        default=default,
    )
