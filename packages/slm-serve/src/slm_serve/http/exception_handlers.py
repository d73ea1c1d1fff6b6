"""Exception handlers and error bodies: OpenAI's format under /v1, FastAPI's elsewhere.

No error body contains the client's input, a path of the server or a traceback.
"""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from slm_kv import KVError
from slm_serve.errors import RequestError
from slm_serve.http.schemas.errors import ErrorResponse, OpenAIErrorResponse
from slm_serve.http.validation_errors import location, sentence, with_subject

logger = logging.getLogger("slm_serve")
CLIENT_CLOSED_REQUEST = 499  # nginx's status for a client that disconnected; only the metrics show it
OPENAI_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
INVALID_JSON = "json_invalid"  # type of an error whose location is a position in the body
MAX_TEXT = 500  # characters of a message or of a name in an error
DESCRIPTIONS = {
    400: "the request is invalid or cannot be fulfilled",
    401: "the API key is missing or wrong",
    403: "this server does not do that, or not with this path",
    404: "there is no such model",
    409: "the name is in use, or the model must stay",
    413: "the body is too large",
    422: "the request is invalid or cannot be fulfilled",
    429: "the queue is full; see Retry-After",
    500: "the model failed on this request",
    501: "the backend cannot do that",
    503: "the model is loading, or the server is stopping",
    504: "the request timed out before its first token, or before the tokens it asked for",
}


def add_exception_handlers(app: FastAPI) -> None:
    """Make ``app`` answer all exceptions with error bodies."""
    app.add_exception_handler(RequestError, _handle_request_error)
    app.add_exception_handler(KVError, _handle_kv_error)
    app.add_exception_handler(RequestValidationError, _handle_validation_error)
    app.add_exception_handler(HTTPException, _handle_http_exception)
    app.add_exception_handler(ClientDisconnect, _handle_disconnect)
    app.add_exception_handler(Exception, _handle_unexpected)


def error_responses(*statuses: int, openai: bool = False) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of a route's error responses: ``statuses``, and those that every route has."""
    model = OpenAIErrorResponse if openai else ErrorResponse
    return {status: {"model": model, "description": DESCRIPTIONS[status]} for status in (401, 413, *statuses)}


def error_response(path: str, error: RequestError) -> JSONResponse:
    """Return the response for ``error`` on a request for ``path``."""
    status, headers = error.status, dict(error.headers or {})
    if not is_openai_path(path):
        return JSONResponse({"detail": error.message}, status, headers)
    return JSONResponse(openai_error_body(error), error.openai_status, headers)


def openai_error_body(error: RequestError) -> dict[str, Any]:
    """Return ``error`` as OpenAI's error body."""
    kind = OPENAI_TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}


def is_openai_path(path: str) -> bool:
    """Whether errors of requests for ``path`` have OpenAI's format."""
    return path == "/v1" or path.startswith("/v1/")


def _handle_request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return error_response(request.url.path, error)


def _handle_kv_error(request: Request, error: Exception) -> Response:
    return error_response(request.url.path, RequestError(422, str(error)))


def _handle_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = error.errors()
    if not is_openai_path(request.url.path):
        return JSONResponse({"detail": [_field_error(problem) for problem in problems]}, 422)
    first = _field_error(problems[0])
    field = ".".join(str(part) for part in first["loc"][1:] if first["type"] != INVALID_JSON)
    error = RequestError(400, with_subject(field, first["msg"]), param=field or None, code=first["type"])
    return error_response(request.url.path, error)


def _field_error(problem: Any) -> dict[str, Any]:
    where = [*map(_encodable, location(problem))]
    return {"loc": where, "msg": _encodable(sentence(problem)), "type": problem["type"]}


def _encodable(part: int | str) -> int | str:
    """Replace lone surrogates, which are not encodable as UTF-8, and shorten the name of a field that a client sent."""
    return part if isinstance(part, int) else part.encode(errors="replace").decode()[:MAX_TEXT]


def _handle_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return error_response(request.url.path, RequestError(error.status_code, str(error.detail), headers=error.headers))


def _handle_disconnect(request: Request, error: Exception) -> Response:
    """End a request whose client left before it had sent its body; nothing is sent."""
    return Response(status_code=CLIENT_CLOSED_REQUEST)


def _handle_unexpected(request: Request, error: Exception) -> Response:
    """Answer 500; Starlette logs the traceback."""
    return error_response(request.url.path, RequestError(500, "the server failed on this request; see its log"))
