"""Requests that are refused before they reach the app: their responses, and a log that an attacker cannot flood."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from slm_serve.errors import RequestError, ServeError
from slm_serve.http.exception_handlers import error_response

logger = logging.getLogger("slm_serve")
LOG_SECONDS = 10.0  # between two messages
NO_RESPONSE = 0  # status of a connection that was closed without a response


class Refusal(ServeError):
    """A request that is refused by the protocol.

    Args:
        status: HTTP status code.
        message: one sentence for the client, with the remedy.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message

    def body(self, path: str) -> bytes:
        """Return the JSON body of the response, in the format of errors at ``path``."""
        return bytes(error_response(path, RequestError(self.status, self.message)).body)


class RefusalLog:
    """Counts refusals, and logs at most one of them every ``LOG_SECONDS``."""

    def __init__(self, on_refusal: Callable[[int], None] = lambda status: None) -> None:
        self._on_refusal = on_refusal
        self._logged_at, self._unlogged = -LOG_SECONDS, 0

    def record(self, status: int, message: str, client: str = "") -> None:
        """Record a refusal with the HTTP ``status`` or ``NO_RESPONSE``; ``client`` is an IP address."""
        self._on_refusal(status)
        now = time.monotonic()
        if now - self._logged_at < LOG_SECONDS:
            self._unlogged += 1
            return
        others = f" ({self._unlogged} more since the last message)" if self._unlogged else ""
        self._logged_at, self._unlogged = now, 0
        logger.warning("refused a client%s: %s%s", f" at {client}" if client else "", message, others)
