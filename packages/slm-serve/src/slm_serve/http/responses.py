"""From a request to an answer, whole or in pieces, for every route that generates."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.responses import JSONResponse, Response

from slm_serve.backends.answer import Delta
from slm_serve.backends.protocol import Job
from slm_serve.http.streams import ClientGone, EventStream, unless_gone
from slm_serve.service import Service


async def _service(request: Request) -> Service:  # a plain one would be run in a thread
    found: Service = request.app.state.service
    return found


TheService = Annotated[Service, Depends(_service)]
Json = dict[str, Any]


@dataclass
class Whole:
    """One text, all of it that came so far; ``last`` its latest piece."""

    last: Delta = field(default_factory=Delta)
    text: str = ""
    tokens: int = 0

    def add(self, delta: Delta) -> None:
        self.last = delta
        self.text += delta.text
        self.tokens += len(delta.token_ids)


def seeded(seed: int | None, index: int) -> dict[str, int]:
    """The seed of the ``index``-th text of a prompt."""
    return {} if seed is None else {"seed": seed + index}


def usage(prompt: int, new: int) -> Json:
    """OpenAI's account of tokens."""
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


async def respond(
    request: Request,
    service: Service,
    jobs: Sequence[Job],
    *,
    stream: bool,
    events: Callable[[AsyncIterator[tuple[int, Delta]]], AsyncIterator[bytes]],
    body: Callable[[list[Whole]], dict[str, Any]],
) -> Response:
    """The texts of ``jobs``: what ``body`` makes of them all, or with ``stream`` what ``events`` makes of their pieces.

    Raises ServeError for what is refused, or fails before anything was sent; what fails later is an event.
    """
    if stream:
        return _streamed(service, jobs, events)
    try:
        return JSONResponse(body(await _whole(request, service, jobs)))
    except ClientGone:
        return Response(status_code=499)  # nobody reads it: it is only seen in the metrics


async def _whole(request: Request, service: Service, jobs: Sequence[Job]) -> list[Whole]:
    """The texts of ``jobs``, in their order. Raises ServeError; ClientGone, with all of them ended, if nobody waits."""
    answer = service.open(jobs)

    async def collected() -> list[Whole]:
        found = [Whole() for _ in jobs]
        async for index, delta in answer:
            found[index].add(delta)
        return found

    try:
        return await unless_gone(request, collected())
    finally:
        service.close(answer)


def _streamed(
    service: Service,
    jobs: Sequence[Job],
    written: Callable[[AsyncIterator[tuple[int, Delta]]], AsyncIterator[bytes]],
) -> Response:
    answer = service.open([replace(job, streams=True) for job in jobs])

    return EventStream(written(aiter(answer)), lambda: service.close(answer))
