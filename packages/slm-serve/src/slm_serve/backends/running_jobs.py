"""What the backends share: calls on the server's event loop from their own threads, and the timing of running jobs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from slm_serve.backends.answer import Answer, Timing
from slm_serve.backends.protocol import Job

Action = Callable[[], object]


class ServerLoop:
    """The server's event loop, as other threads see it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def call(self, action: Action) -> None:
        """Schedule ``action`` on the loop. Without effect after the loop was closed."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(action)


@dataclass
class RunningJob:
    """A submitted job, the text ``index`` of ``answer``. Times are those of ``time.perf_counter``."""

    answer: Answer
    index: int
    job: Job
    started: float = field(default_factory=time.perf_counter)
    first_token_at: float | None = None

    def note_tokens(self, now: float, tokens: int) -> None:
        """Record that ``tokens`` tokens have arrived."""
        if self.first_token_at is None and tokens:
            self.first_token_at = now

    def timing(self, now: float) -> Timing:
        """Return the timing of a job that ends now."""
        return Timing((self.first_token_at or now) - self.started, now - self.started)
