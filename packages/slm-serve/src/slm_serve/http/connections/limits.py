"""Limits of connections."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits of each connection, and of all together. Times are in seconds.

    Args:
        connections: open connections.
        head_bytes: bytes of a request line with its headers, and of everything in a body that is not content.
        head_fields: header fields of a request.
        head_seconds: from the first byte of a request to the end of its headers; also without a first byte.
        body_seconds: from the end of the headers to the end of the body.
        send_seconds: in which a client must take ``send_bytes`` of what waits for it, or all of it.
        unsent_bytes: that wait for all clients together.
        pipelined: requests that wait while an earlier one on their connection is answered.
    """

    connections: int = 1000
    head_bytes: int = 65_536
    head_fields: int = 100
    head_seconds: float = 10
    body_seconds: float = 30
    send_seconds: float = 30
    send_bytes: int = 32_768
    unsent_bytes: int = 64 * 2**20
    pipelined: int = 16
