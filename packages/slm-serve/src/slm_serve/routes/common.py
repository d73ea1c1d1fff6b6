"""From a request to an answer, whole or in pieces, for every route that generates."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.responses import Response

from slm_serve.answer import Delta
from slm_serve.backend import Job
from slm_serve.errors import ServeError
from slm_serve.service import Service
from slm_serve.streams import EventStream, event, unless_gone


async def _service(request: Request) -> Service:  # a plain one would be run in a thread
    found: Service = request.app.state.service
    return found


TheService = Annotated[Service, Depends(_service)]


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


async def whole(request: Request, service: Service, jobs: Sequence[Job]) -> list[Whole]:
    """The texts of ``jobs``, in their order. Raises ServeError; ClientGone, with all of them ended, if nobody waits."""
    answer = service.open(jobs)

    async def collected() -> list[Whole]:
        found = [Whole() for _ in jobs]
        async for index, delta in service.follow(answer):
            found[index].add(delta)
        return found

    try:
        return await unless_gone(request, collected())
    finally:
        service.close(answer)


def streamed(
    service: Service,
    jobs: Sequence[Job],
    written: Callable[[AsyncIterator[tuple[int, Delta]]], AsyncIterator[bytes]],
    failed: Callable[[ServeError], Any],
) -> Response:
    """The texts of ``jobs`` as events: what ``written`` makes of their pieces, and ``failed`` of an error on the way.

    Raises ServeError for what is refused before anything was sent."""
    answer = service.open([replace(job, streams=True) for job in jobs])

    async def events() -> AsyncIterator[bytes]:
        try:
            async for data in written(service.follow(answer)):
                yield data
        except ServeError as error:
            yield event(failed(error))

    return EventStream(events(), lambda: service.close(answer))


def nobody() -> Response:
    """For a client that is gone: it is only seen in the metrics."""
    return Response(status_code=499)
