"""The results of a request, passed from a backend to a route on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from slm_kv import SampledToken  # its module imports torch, which a type does not need


FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Timing:
    """Seconds from the start of a job to its first token, and to its end."""

    first_token: float
    total: float


@dataclass(frozen=True)
class Delta:
    """The part of one text since its previous delta. Only the last one has ``finish_reason`` and ``timing``.

    An embedding is a single delta without a text.
    """

    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[SampledToken, ...] = ()
    prompt_logprobs: tuple[SampledToken, ...] = ()
    finish_reason: FinishReason | None = None
    timing: Timing | None = None
    embedding: tuple[float, ...] | None = None


def _ignore_delta(index: int, delta: Delta, tokens: int) -> None:
    pass


class Answer:
    """The texts of one request; ``async for index, delta in answer`` ends when all jobs are finished.

    Iteration raises the exception passed to ``fail``. The creator of an answer must close it.

    Args:
        jobs: number of texts.
        on_delta: called with the index of a text, each delta that is read, and the number of tokens of the text so far.
        open_ended: whether all jobs are, see Job.

    Attributes:
        context: of the request, in which a backend logs messages about it from its own thread.
        unfinished: texts that the backend still generates.
        failed: whether ``fail`` was called.
        on_close: actions that cancel the jobs, added by the backend.
        on_fail: called by ``fail``.
        on_finish: action that ends the jobs at once with the text that they have, set by the backend.
    """

    def __init__(
        self, jobs: int, on_delta: Callable[[int, Delta, int], None] = _ignore_delta, *, open_ended: bool = False
    ) -> None:
        self.unfinished, self.open_ended, self.failed = jobs, open_ended, False
        self.context = copy_context()
        self.on_close: list[Callable[[], None]] = []
        self.on_fail: Callable[[], None] = lambda: None
        self.on_finish: Callable[[Exception], None] = self.fail
        self._on_delta, self._token_counts, self._unread = on_delta, [0] * jobs, jobs
        self._items: asyncio.Queue[tuple[int, Delta] | Exception] = asyncio.Queue()

    def put(self, index: int, delta: Delta) -> None:
        """Add a delta of the text ``index``. Must be called on the event loop."""
        if self.failed:
            return
        self.unfinished -= delta.finish_reason is not None
        self._items.put_nowait((index, delta))

    def fail(self, error: Exception) -> None:
        """Cancel the unfinished jobs, and end the iteration with ``error``. Must be called on the event loop.

        The jobs are cancelled here, because whoever iterates may be waiting for a client that does not read.
        """
        if self.failed:
            return
        self.unfinished, self.failed = 0, True
        self._items.put_nowait(error)
        self.close()
        self.on_fail()

    def finish(self, error: Exception) -> None:
        """End the unfinished jobs soon, with finish reason ``length`` and the text that they have.

        Without a token of any job, the iteration ends with ``error``. Must be called on the event loop.
        """
        self.on_finish(error)

    async def __aiter__(self) -> AsyncIterator[tuple[int, Delta]]:
        while self._unread:
            item = await self._items.get()
            if isinstance(item, Exception):
                raise item
            index, delta = item
            self._unread -= delta.finish_reason is not None
            self._token_counts[index] += len(delta.token_ids)
            self._on_delta(index, delta, self._token_counts[index])
            yield item

    def close(self) -> None:
        """Cancel the unfinished jobs, by the actions in ``on_close``. Idempotent."""
        actions, self.on_close = self.on_close, []
        for action in actions:
            action()
