"""``POST /generate``: a prompt and what follows it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from slm_serve.backends.answer import Delta
from slm_serve.backends.protocol import Job
from slm_serve.http.exception_handlers import documented
from slm_serve.http.responses import TheService, Whole, respond
from slm_serve.http.schemas.generate import GenerateRequest, GenerateResponse
from slm_serve.http.streams import AS_EVENTS, DONE, event
from slm_serve.service import Service

router = APIRouter()


@router.post(
    "/generate",
    response_model=GenerateResponse,
    responses={200: AS_EVENTS, **documented(404, 422, 429, 500, 503, 504)},
)
async def generate(body: GenerateRequest, request: Request, service: TheService) -> Response:
    """Continue a prompt; with ``stream``, as server-sent events whose last has the figures."""
    job = await _job(body, service)
    return await respond(
        request,
        service,
        [job],
        stream=body.stream,
        events=lambda pieces: _events(job, pieces),
        body=lambda texts: _response(job, texts[0]),
    )


async def _job(body: GenerateRequest, service: Service) -> Job:
    model = service.model(body.adapter).name
    return Job(await service.tokens(body.prompt), body.sampling(), model, body.use_cache)


def _response(job: Job, text: Whole) -> dict[str, Any]:
    """A GenerateResponse."""
    timing, reason = text.last.timing, text.last.finish_reason
    assert timing
    assert reason
    return {
        "text": text.text,
        "model": job.model,
        "prompt_tokens": len(job.prompt_ids),
        "completion_tokens": text.tokens,
        "finish_reason": reason,
        "seconds": timing.total,
        "time_to_first_token": timing.first,
        "tokens_per_second": text.tokens / timing.total,
    }


async def _events(job: Job, pieces: AsyncIterator[tuple[int, Delta]]) -> AsyncIterator[bytes]:
    text = Whole()
    async for _, delta in pieces:
        text.add(delta)
        if delta.finish_reason is None:
            yield event({"text": delta.text, "completion_tokens": text.tokens})
        else:
            yield event(_response(job, text) | {"text": delta.text})
    yield DONE
