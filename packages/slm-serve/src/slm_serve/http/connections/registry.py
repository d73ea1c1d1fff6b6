"""What all connections of a server share."""

from __future__ import annotations

from typing import Protocol

from slm_serve.http.connections.limits import ConnectionLimits
from slm_serve.http.connections.refusals import NO_RESPONSE, RefusalLog


class Connection(Protocol):
    """A connection that the server can end."""

    @property
    def unsent_bytes(self) -> int:
        """Bytes that wait until the client takes them."""

    def abort(self) -> None:
        """Close the socket at once and drop what was not sent."""


class Connections:
    """The connections that wait for their clients. When there are too many, the one that has waited longest is closed.

    Attributes:
        waiting: connections whose client has to send something, in the order in which they began to wait.
        blocked: connections whose client does not take what was sent, in that order.
    """

    def __init__(self, limits: ConnectionLimits | None = None, log: RefusalLog | None = None) -> None:
        self.limits, self.log = limits or ConnectionLimits(), log or RefusalLog()
        self.waiting: dict[Connection, None] = {}
        self.blocked: dict[Connection, None] = {}

    def make_room(self) -> bool:
        """Close the connection that has waited longest for its client. Returns whether there was one."""
        return _abort_oldest(self.waiting) or _abort_oldest(self.blocked)

    def bound_unsent_bytes(self) -> None:
        """Close connections, those that have been blocked longest first, while too many bytes wait for all of them."""
        while len(self.blocked) > 1 and self._unsent_bytes > self.limits.unsent_bytes:
            _abort_oldest(self.blocked)
            self.log.record(NO_RESPONSE, "slow clients leave too many bytes unread")

    @property
    def _unsent_bytes(self) -> int:
        return sum(connection.unsent_bytes for connection in self.blocked)


def _abort_oldest(connections: dict[Connection, None]) -> bool:
    oldest = next(iter(connections), None)
    if oldest is None:
        return False
    del connections[oldest]
    oldest.abort()
    return True
