"""What comes of the jobs of one request, piece by piece, on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from slm_kv import SampledToken as Choice


Ending = Literal["stop", "length"]


@dataclass(frozen=True)
class Timing:
    """Seconds from a job's start to its first token and to its end."""

    first: float
    total: float


@dataclass(frozen=True)
class Delta:
    """What was added to one text. ``finish_reason`` and ``timing`` come with the last."""

    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[Choice, ...] = ()
    prompt_logprobs: tuple[Choice, ...] = ()
    finish_reason: Ending | None = None
    timing: Timing | None = None


class Answer:
    """``async for index, delta in answer`` until all ``jobs`` jobs are finished; raises what ``fail`` was given.

    ``seen`` is called with each delta that is taken, and the tokens of its text so far. ``close`` ends what still runs:
    whoever opened the answer closes it.
    """

    def __init__(self, jobs: int, seen: Callable[[int, Delta, int], None] = lambda *_: None) -> None:
        self.unfinished = jobs
        self.on_close: list[Callable[[], None]] = []
        self._seen, self._tokens = seen, [0] * jobs
        self._items: asyncio.Queue[tuple[int, Delta] | Exception] = asyncio.Queue()

    def put(self, index: int, delta: Delta) -> None:
        self._items.put_nowait((index, delta))

    def fail(self, error: Exception) -> None:
        self._items.put_nowait(error)

    async def __aiter__(self) -> AsyncIterator[tuple[int, Delta]]:
        while self.unfinished:
            item = await self._items.get()
            if isinstance(item, Exception):
                raise item
            index, delta = item
            self.unfinished -= delta.finish_reason is not None
            self._tokens[index] += len(delta.token_ids)
            self._seen(index, delta, self._tokens[index])
            yield item

    def close(self) -> None:
        """End what still runs. Again, it does nothing."""
        actions, self.on_close = self.on_close, []
        for action in actions:
            action()
