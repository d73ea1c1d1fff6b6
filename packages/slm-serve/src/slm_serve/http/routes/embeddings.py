"""``POST /v1/embeddings``: OpenAI's endpoint. An embedding is the normalised mean of the last hidden states."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from slm_kv import SamplingParams
from slm_serve.backends.protocol import Job
from slm_serve.errors import DeadlineError, RequestError
from slm_serve.http.exception_handlers import CLIENT_CLOSED_REQUEST, error_responses
from slm_serve.http.request_body import request_body, response_headers
from slm_serve.http.responses import service_of
from slm_serve.http.schemas.embeddings import EmbeddingList, EmbeddingRequest
from slm_serve.http.streams import ClientDisconnected, cancel_on_disconnect
from slm_serve.service import Service

router = APIRouter(prefix="/v1")
Vector = tuple[float, ...]


@router.post(
    "/embeddings",
    response_model=EmbeddingList,
    responses=error_responses(400, 404, 429, 500, 501, 503, 504, openai=True),
)
async def embeddings(body: Annotated[EmbeddingRequest, request_body(EmbeddingRequest)], request: Request) -> Response:
    """Return the embedding of each input."""
    service = service_of(request)
    model = service.served_model(body.model).name
    prompts = await _tokenize(service, model, body)
    jobs = [Job(prompt, SamplingParams(max_new_tokens=1), model, embeds=True) for prompt in prompts]
    for job in jobs:  # all, before the first ones are computed
        _check_length(len(job.prompt_ids), service.backend.context_length)
        service.check(job)
        await asyncio.sleep(0)  # so that many inputs do not block the event loop
    try:
        items = await cancel_on_disconnect(request, _embed_all(service, jobs, body))
    except ClientDisconnected:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    tokens = sum(len(job.prompt_ids) for job in jobs)
    rest = {"model": model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
    content = b'{"object":"list","data":[' + b",".join(items) + b"]," + orjson.dumps(rest)[1:]
    return Response(content, media_type="application/json", headers=response_headers(request))


async def _tokenize(service: Service, model: str, body: EmbeddingRequest) -> list[tuple[int, ...]]:
    texts, special = [each for each in body.inputs if isinstance(each, str)], body.add_special_tokens is not False
    ids = iter(await service.tokenize_many(texts, model, special))
    return [next(ids) if isinstance(each, str) else tuple(each) for each in body.inputs]


async def _embed_all(service: Service, jobs: Sequence[Job], body: EmbeddingRequest) -> list[bytes]:
    """Compute the embeddings of ``jobs``, as many at a time as the backend runs, and return them as items in JSON.

    So the queue has room for other requests, and the event loop never encodes all at once. Raises RequestError; 504
    after the time of one request.
    """
    timeout, size = service.settings.request_timeout, service.backend.max_sequences
    items: dict[int, bytes] = {}
    try:
        async with asyncio.timeout(timeout):
            for first in range(0, len(jobs), size):
                async for index, vector in _embed(service, jobs[first : first + size]):
                    _check_dimensions(body.dimensions, len(vector))
                    items[first + index] = _item(first + index, vector, body.encoding_format)
    except TimeoutError:
        raise DeadlineError(timeout) from None
    return [items[index] for index in range(len(jobs))]


async def _embed(service: Service, jobs: Sequence[Job]) -> AsyncIterator[tuple[int, Vector]]:
    answer = service.submit(jobs)
    try:
        async for index, delta in answer:
            assert delta.embedding is not None, "an embedding without numbers"
            yield index, delta.embedding
    finally:
        service.release(answer)


def _check_length(tokens: int, context_length: int) -> None:
    if tokens > context_length:
        raise RequestError(
            400,
            f"This model's maximum context length is {context_length} tokens. However, your input resulted in {tokens} "
            "tokens. Please reduce the length of the input.",
            param="input",
            code="context_length_exceeded",
        )


def _check_dimensions(dimensions: int | None, size: int) -> None:
    if dimensions not in (None, size):
        raise RequestError(
            400,
            f"the model's embeddings have {size} dimensions and cannot have {dimensions}; leave dimensions out",
            param="dimensions",
        )


def _item(index: int, vector: Vector, encoding_format: str | None) -> bytes:
    encoded: Any = vector
    if encoding_format == "base64":
        encoded = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    return orjson.dumps({"object": "embedding", "index": index, "embedding": encoded})
