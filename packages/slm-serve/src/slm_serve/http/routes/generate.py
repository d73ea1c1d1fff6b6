"""``POST /generate``: continue one prompt."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from slm_serve.backends.protocol import Job
from slm_serve.http.exception_handlers import error_responses
from slm_serve.http.request_body import request_body
from slm_serve.http.responses import Deltas, GeneratedText, respond, service_of
from slm_serve.http.schemas.generate import GenerateRequest, GenerateResponse
from slm_serve.http.streams import DONE_EVENT, EVENT_STREAM_RESPONSE, encode_event
from slm_serve.service import Service

router = APIRouter()


@router.post(
    "/generate",
    response_model=GenerateResponse,
    responses={200: EVENT_STREAM_RESPONSE, **error_responses(404, 422, 429, 500, 503, 504)},
)
async def generate(body: Annotated[GenerateRequest, request_body(GenerateRequest)], request: Request) -> Response:
    """Continue a prompt; with `stream`, as server-sent events, of which the last has the timing."""
    service = service_of(request)
    job = await _job(body, service)
    return await respond(
        request,
        service,
        [job],
        stream=body.stream,
        encode_events=lambda deltas: _events(job, deltas),
        build_body=lambda texts: _body(job, texts[0]),
    )


async def _job(body: GenerateRequest, service: Service) -> Job:
    model = service.served_model(body.adapter).name
    open_ended = "max_new_tokens" not in body.model_fields_set
    return Job(
        await service.tokenize(body.prompt, model), body.sampling_params(), model, body.use_cache, open_ended=open_ended
    )


def _body(job: Job, text: GeneratedText) -> dict[str, Any]:
    """Return a GenerateResponse as a plain object."""
    timing, finish_reason = text.last.timing, text.last.finish_reason
    assert timing
    assert finish_reason
    return {
        "text": text.text,
        "model": job.model,
        "prompt_tokens": len(job.prompt_ids),
        "completion_tokens": text.tokens,
        "finish_reason": finish_reason,
        "seconds": timing.total,
        "time_to_first_token": timing.first_token,
        "tokens_per_second": text.tokens / timing.total,
    }


async def _events(job: Job, deltas: Deltas) -> AsyncIterator[bytes]:
    text = GeneratedText()
    async for _, delta in deltas:
        text.add(delta)
        if delta.finish_reason is None:
            yield encode_event({"text": delta.text, "completion_tokens": text.tokens})
        else:
            yield encode_event(_body(job, text) | {"text": delta.text})
    yield DONE_EVENT
