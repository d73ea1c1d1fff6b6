"""Bodies of the health checks and of the version."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class Alive(BaseModel):
    """The process responds."""

    status: Literal["alive"] = "alive"


class Ready(BaseModel):
    """The server accepts requests."""

    status: Literal["ready"] = "ready"


class NotReady(BaseModel):
    """The server should get no requests, for this reason."""

    status: Literal["not ready"] = "not ready"
    reason: str


class Version(BaseModel):
    """The version of the server."""

    version: str
