"""Checks of versions and headers that the parser accepts, but a server must refuse."""

from __future__ import annotations

from collections.abc import Iterable

from slm_serve.http.connections.refusals import Refusal

HOST_COUNT = "an HTTP/1.1 request must have exactly one Host header"
TRANSFER_ENCODING = "the only transfer encoding of this server is chunked; send the body without another one"
HTTP_VERSION = "the HTTP version is not supported; use HTTP/1.1"


def check_headers(version: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Raise Refusal for what llhttp accepts but an HTTP/1.1 server must refuse (RFC 9112, 3.2 and 6.1)."""
    if version not in ("1.0", "1.1"):
        raise Refusal(505, HTTP_VERSION)
    hosts = 0
    for name, value in headers:
        if name == b"host":
            hosts += 1
        elif name == b"transfer-encoding" and value.lower() != b"chunked":
            raise Refusal(501, TRANSFER_ENCODING)
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        raise Refusal(400, HOST_COUNT)
