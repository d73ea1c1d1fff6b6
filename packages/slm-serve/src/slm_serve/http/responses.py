"""HTTP responses with generated texts, whole or streamed, for all routes that generate text."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.responses import Response

from slm_serve.backends.answer import Delta
from slm_serve.backends.protocol import Job
from slm_serve.http.exception_handlers import CLIENT_CLOSED_REQUEST
from slm_serve.http.request_body import response_headers
from slm_serve.http.streams import ClientDisconnected, EventStreamResponse, cancel_on_disconnect
from slm_serve.http.whole_answers import GeneratedText as GeneratedText
from slm_serve.http.whole_answers import whole_answer
from slm_serve.service import Service


def service_of(request: Request) -> Service:
    """Return the service. Routes that generate text call it, which is cheaper than a dependency of FastAPI."""
    service: Service = request.app.state.service
    return service


async def _get_service(request: Request) -> Service:  # async, because FastAPI runs a plain function on a thread
    return service_of(request)


ServiceDependency = Annotated[Service, Depends(_get_service)]
Json = dict[str, Any]
Deltas = AsyncIterator[tuple[int, Delta]]  # the index of a text, and what was added to it


def seed_argument(seed: int | None, index: int) -> dict[str, int]:
    """Return the seed of the text ``index`` of a prompt as a keyword argument, or no argument without a seed."""
    return {} if seed is None else {"seed": seed + index}


def usage_body(prompt_tokens: int, completion_tokens: int) -> Json:
    """Return OpenAI's ``usage``."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


async def respond(
    request: Request,
    service: Service,
    jobs: Sequence[Job],
    *,
    stream: bool,
    encode_events: Callable[[Deltas], AsyncIterator[bytes]],
    build_body: Callable[[list[GeneratedText]], Json],
) -> Response:
    """Run ``jobs`` and return their texts.

    Args:
        stream: respond with server-sent events made by ``encode_events``; otherwise with a JSON body made by
            ``build_body`` from the finished texts.

    Raises RequestError or KVError for requests that are rejected, or that fail before anything was sent. Later errors
    become the last event of the stream.
    """
    response: Response
    if stream:
        response = _stream(service, jobs, encode_events)
    else:
        try:
            response = await whole_answer(await _generate(request, service, jobs), build_body)
        except ClientDisconnected:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
    response.headers.update(response_headers(request))
    return response


async def _generate(request: Request, service: Service, jobs: Sequence[Job]) -> list[GeneratedText]:
    """Return the finished texts in the order of ``jobs``.

    Raises RequestError, or ClientDisconnected after cancelling the jobs.
    """
    answer = service.submit(jobs)

    async def collect() -> list[GeneratedText]:
        texts = [GeneratedText() for _ in jobs]
        async for index, delta in answer:
            texts[index].add(delta)
        return texts

    try:
        return await cancel_on_disconnect(request, collect())
    finally:
        service.release(answer)


def _stream(service: Service, jobs: Sequence[Job], encode_events: Callable[[Deltas], AsyncIterator[bytes]]) -> Response:
    answer = service.submit([replace(job, streams=True) for job in jobs])
    return EventStreamResponse(encode_events(aiter(answer)), answer, lambda: service.release(answer))
