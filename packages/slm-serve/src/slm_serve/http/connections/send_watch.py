"""Closes a connection whose client does not take what was sent to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from slm_serve.http.connections.limits import ConnectionLimits
from slm_serve.http.connections.registry import Connection


class SendWatch:
    """Calls ``on_stall`` if the client takes neither ``send_bytes`` within ``send_seconds`` nor all that is left."""

    def __init__(self, connection: Connection, limits: ConnectionLimits, on_stall: Callable[[], None]) -> None:
        self._connection, self._limits, self._on_stall = connection, limits, on_stall
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start watching if any bytes are unsent and the watch is not running."""
        if self._timer is None and (unsent := self._connection.unsent_bytes):
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._limits.send_seconds, self._check, unsent)

    def stop(self) -> None:
        """Stop watching. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self, unsent_before: int) -> None:
        self._timer = None
        unsent = self._connection.unsent_bytes
        if unsent and unsent_before - unsent < self._limits.send_bytes:
            self._on_stall()
        else:
            self.start()
