"""Every answer that is none: in OpenAI's body under /v1, in FastAPI's elsewhere; no input, path or trace in it."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from slm_kv import KVError
from slm_serve.errors import ServeError
from slm_serve.http.schemas.generate import Refusal
from slm_serve.http.schemas.openai_requests import OpenAIError

logger = logging.getLogger("slm_serve")
TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
MEANINGS = {
    400: "the request asks for what cannot be done",
    401: "no API key, or a wrong one",
    404: "no such model",
    413: "the body is too large",
    422: "the request asks for what cannot be done",
    429: "the queue is full; see Retry-After",
    500: "the model failed on this request",
    503: "the model is loading, or the server is stopping",
    504: "the deadline passed",
}


def install(app: FastAPI) -> None:
    """Have ``app`` answer errors so."""
    app.add_exception_handler(ServeError, _refuse)
    app.add_exception_handler(KVError, _impossible)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


def documented(*statuses: int, openai: bool = False) -> dict[int | str, dict[str, Any]]:
    """What a route says of its errors in the schema, besides those that any route has."""
    model = OpenAIError if openai else Refusal
    return {status: {"model": model, "description": MEANINGS[status]} for status in (401, 413, *statuses)}


def refusal(path: str, error: ServeError) -> JSONResponse:
    """The body for one who asked for ``path``."""
    status, headers = error.status, dict(error.headers or {})
    if not is_openai(path):
        return JSONResponse({"detail": error.message}, status, headers)
    return JSONResponse(openai_body(error), 400 if status == 422 else status, headers)


def openai_body(error: ServeError) -> dict[str, Any]:
    """OpenAI's."""
    kind = TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}


def is_openai(path: str) -> bool:
    return path == "/v1" or path.startswith("/v1/")


def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServeError)
    return refusal(request.url.path, error)


def _impossible(request: Request, error: Exception) -> Response:
    return refusal(request.url.path, ServeError(422, str(error)))


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = [
        {"loc": [*map(_plain, one["loc"])], "msg": str(one["msg"]).removeprefix("Value error, "), "type": one["type"]}
        for one in error.errors()
    ]
    if not is_openai(request.url.path):
        return JSONResponse({"detail": problems}, 422)
    first = problems[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    message = f"{where}: {first['msg']}" if where else str(first["msg"])
    return refusal(request.url.path, ServeError(400, message, param=where or None, code=str(first["type"])))


def _plain(part: int | str) -> int | str:
    """A place in the body; the client's own words may be no text that can be sent."""
    return part if isinstance(part, int) else part.encode(errors="replace").decode()


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return refusal(request.url.path, ServeError(error.status_code, str(error.detail), headers=error.headers))


def _unexpected(request: Request, error: Exception) -> Response:
    """Starlette logs the trace; the client learns that it is not at fault."""
    return refusal(request.url.path, ServeError(500, "the server failed on this request; its log says how"))
