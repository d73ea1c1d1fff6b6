"""Headers of an ASGI scope as bytes: Starlette's Headers decode names and values again on each access."""

from __future__ import annotations

from starlette.types import Scope


def header(scope: Scope, name: bytes) -> bytes | None:
    """Return the first header called ``name``, which is in lower case, or None."""
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found
    return None
