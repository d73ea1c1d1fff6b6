"""Information about the server: served models, health checks and metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from slm_serve.backends.protocol import Backend
from slm_serve.backends.served_models import ServedModel
from slm_serve.http.exception_handlers import error_responses
from slm_serve.http.responses import ServiceDependency
from slm_serve.http.schemas.health import Alive, NotReady, Ready, Version
from slm_serve.http.schemas.models import ModelCard, ModelList

CREATED = 0  # OpenAI requires the field, but the creation time of a model is not known

router = APIRouter()


@router.get("/v1/models", responses=error_responses(503, openai=True))
async def models(service: ServiceDependency) -> ModelList:
    """List the served models. The first is the default, which answers requests without a model name."""
    backend = service.backend
    return ModelList(data=[_model_card(backend, model) for model in backend.served.values()])


@router.get("/v1/models/{name:path}", responses=error_responses(404, 503, openai=True))
async def model(name: str, service: ServiceDependency) -> ModelCard:
    """Describe one served model."""
    return _model_card(service.backend, service.served_model(name))


@router.get("/health/live")
async def live() -> Alive:
    """Liveness check: the process responds."""
    return Alive()


@router.get("/health", response_model=Ready, responses={503: {"model": NotReady, "description": "not ready"}})
@router.get("/health/ready", response_model=Ready, responses={503: {"model": NotReady, "description": "not ready"}})
async def ready(service: ServiceDependency) -> Response | Ready:
    """Readiness check: whether requests should be sent to this server."""
    if reason := service.unavailable_reason:
        return JSONResponse(NotReady(reason=reason).model_dump(), 503)
    return Ready()


@router.get("/version", responses=error_responses())
async def version(request: Request) -> Version:
    """Return the version of slm-serve."""
    return Version(version=request.app.version)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **error_responses()},
)
async def metrics(service: ServiceDependency) -> Response:
    """Return metrics in Prometheus' text format."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _model_card(backend: Backend, model: ServedModel) -> ModelCard:
    return ModelCard(
        id=model.name,
        created=CREATED,
        max_model_len=backend.context_length,
        kind=model.kind,
        parent=model.parent,
        weights=model.weights,
        default=next(iter(backend.served)) == model.name,
        backend=backend.kind,
        backend_reason=backend.reason,
    )
