"""Middleware against web pages that use a server that is not theirs: checks of ``Host`` and ``Origin``."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from slm_serve.errors import RequestError
from slm_serve.http.exception_handlers import error_response
from slm_serve.http.middleware import HEALTH_PATHS
from slm_serve.http.raw_headers import header

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
SAME_SITE = ("same-origin", "none")  # none: typed by the user


class HostMiddleware:
    """Rejects requests for other hosts with 421.

    A page whose name resolves to this machine (DNS rebinding) has the browser's permission to use the server there;
    only ``Host`` still shows the page's name. Without ``allowed_hosts`` only requests that arrive on the loopback
    interface are checked. Health checks are not: probes use addresses.

    Args:
        host: the address that the server listens on.
        allowed_hosts: further names; ``*.name`` stands for its subdomains, ``*`` for all names.
    """

    def __init__(self, app: ASGIApp, host: str, allowed_hosts: Collection[str]) -> None:
        self._app = app
        self._checks_all = bool(allowed_hosts)
        self._checks_loopback = is_loopback(host)
        self._names = frozenset(name.lower() for name in (*LOOPBACK_NAMES, host, *allowed_hosts))
        self._is_allowed = lru_cache(maxsize=256)(self._matches)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._must_check(scope) and scope["path"] not in HEALTH_PATHS:
            host = header(scope, b"host")
            if host is not None and not self._is_allowed(host):  # HTTP/1.0 has none
                message = "this server does not answer for the name in the Host header; add it with --allowed_hosts"
                await error_response(scope["path"], RequestError(421, message))(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _must_check(self, scope: Scope) -> bool:
        if self._checks_all:
            return True
        server = scope.get("server")  # uvicorn's own command line may listen elsewhere than the settings say
        return self._checks_loopback and server is not None and is_loopback(server[0])

    def _matches(self, host: bytes) -> bool:
        name = host_name(host.decode("latin-1"))
        parents = (f"*.{name.split('.', count)[-1]}" for count in range(1, name.count(".") + 1))
        return "*" in self._names or name in self._names or any(parent in self._names for parent in parents)


class CrossOriginMiddleware:
    """Rejects requests from pages of other origins with 403, unless they only read.

    The rules of Go's CrossOriginProtection: browsers send ``Sec-Fetch-Site`` to https and loopback addresses, and
    ``Origin`` with every POST. Other clients send neither.

    Args:
        allowed_origins: origins that CORS allows; ``*`` stands for all.
    """

    def __init__(self, app: ASGIApp, allowed_origins: Collection[str]) -> None:
        self._app, self._allowed_origins = app, allowed_origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in SAFE_METHODS and self._is_foreign(scope):
            message = (
                "the request comes from a page of another origin; allow it with --cors_origin, or, behind a proxy, "
                "pass the Host header on"
            )
            await error_response(scope["path"], RequestError(403, message))(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_foreign(self, scope: Scope) -> bool:
        origin, site = header(scope, b"origin"), header(scope, b"sec-fetch-site")
        if origin is None and site is None:
            return False
        name = (origin or b"").decode("latin-1")
        if name in self._allowed_origins or "*" in self._allowed_origins:
            return False
        if site is not None:
            return site.decode("latin-1") not in SAME_SITE
        host = (header(scope, b"host") or b"").decode("latin-1")
        return urlsplit(name).netloc.lower() != host.lower()


@lru_cache(maxsize=64)
def is_loopback(host: str) -> bool:
    """Whether ``host`` is an address of this machine; False for a name other than localhost."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a host name: its addresses are unknown
        return False


def host_name(host: str) -> str:
    """Return the name in a ``Host`` header without port, brackets and the dot of an absolute name."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].rstrip(".").lower()
