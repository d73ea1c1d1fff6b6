"""``POST /v1/load_lora_adapter`` and ``/v1/unload_lora_adapter``: vLLM's API, for adapters of all methods."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from starlette.responses import PlainTextResponse, Response

from slm_serve.http.exception_handlers import error_responses
from slm_serve.http.request_body import request_body
from slm_serve.http.responses import ServiceDependency
from slm_serve.http.schemas.adapters import LoadAdapterRequest, UnloadAdapterRequest

router = APIRouter(prefix="/v1")
SUCCESS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}


@router.post(
    "/load_lora_adapter",
    response_class=Response,  # not PlainTextResponse: errors are JSON
    responses=SUCCESS | error_responses(400, 403, 409, 422, 503, openai=True),
)
async def load_lora_adapter(
    body: Annotated[LoadAdapterRequest, request_body(LoadAdapterRequest)], service: ServiceDependency
) -> PlainTextResponse:
    """Serve the adapter in a folder below --adapter_root. The answer is sent when it can be used."""
    await service.adapters.load(body.lora_name, body.lora_path, replace=body.load_inplace)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")


@router.post(
    "/unload_lora_adapter",
    response_class=Response,  # not PlainTextResponse: errors are JSON
    responses=SUCCESS | error_responses(400, 403, 404, 409, 503, openai=True),
)
async def unload_lora_adapter(
    body: Annotated[UnloadAdapterRequest, request_body(UnloadAdapterRequest)], service: ServiceDependency
) -> PlainTextResponse:
    """Stop serving an adapter. Its running and queued requests are finished."""
    await service.adapters.unload(body.lora_name)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")
