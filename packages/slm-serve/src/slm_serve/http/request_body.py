"""Request bodies: read, parsed and validated without blocking the event loop.

Annotations are not postponed in this module: FastAPI resolves those of ``BodyReader.__call__`` without its globals.
"""

import asyncio
import email.message
import json
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, Generic, TypeVar

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from pydantic.json_schema import models_json_schema
from starlette.routing import BaseRoute

from slm_serve.http.schemas.base.lenience import Reading

Model = TypeVar("Model", bound=BaseModel)
Json = dict[str, Any]
MAX_ERRORS = 10
LARGE_BODY = 32_000  # bytes above which a body is parsed on a thread
# Parsing holds the interpreter's lock until its end, at 1 microsecond for an object and 0.05 for an element of a list.
MAX_OBJECTS = 50_000  # objects, arrays and keys
MAX_ELEMENTS = 1_100_000  # elements of objects and arrays
IGNORED_HEADER = "x-slm-ignored"
MAX_NAMES, MAX_NAME = 32, 64  # names in the header, and characters of a name
UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")
CHARSETS = {"utf-8", "utf8", "us-ascii", "ascii"}
LONG_NUMBER = b"0" * 400  # of so many digits; converting them takes quadratic time
ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
# One thread for all: several that parse at once would leave little of the interpreter's lock to the event loop and the
# engine. While four clients sent invalid bodies of 1 MB, others waited 8.7 times as long (p99), 3.7 with one thread.
_parsing_thread = ThreadPoolExecutor(1, thread_name_prefix="body")
REFERENCE = "#/components/schemas/{model}"


class BodyReader(Generic[Model]):
    """A FastAPI dependency that returns the body of a request as a ``model``."""

    def __init__(self, model: type[Model]) -> None:
        self.model = model

    async def __call__(self, request: Request) -> Model:
        """Read the body. Raises RequestValidationError with at most ten errors."""
        _check_content_type(request.headers.get("content-type"))
        _check_encoding(request.headers.get("content-encoding"))
        raw = await request.body()
        reading = Reading(strict=request.app.state.service.settings.strict)
        if len(raw) > LARGE_BODY:
            loop = asyncio.get_running_loop()
            body = await loop.run_in_executor(_parsing_thread, self._parse, raw, reading)
        else:
            body = self._parse(raw, reading)
        add_ignored_fields(request, reading.ignored)
        return body

    def _parse(self, raw: bytes, reading: Reading) -> Model:
        data = parse_json(raw)
        try:
            return self.model.model_validate(data, context=reading)
        except ValidationError as error:
            problems = error.errors(include_url=False)[:MAX_ERRORS]
        raise RequestValidationError([{**problem, "loc": ("body", *problem["loc"])} for problem in problems])


def request_body(model: type[BaseModel]) -> Any:
    """Return the dependency that reads a body: ``body: Annotated[Model, request_body(Model)]``."""
    return Depends(BodyReader(model))


def add_response_header(request: Request, name: str, value: str) -> None:
    """Add a header to the response, which ``respond`` or ``response_headers`` puts there."""
    request.state.response_headers = response_headers(request) | {name: value}


def response_headers(request: Request) -> dict[str, str]:
    """Return the headers that were added while the request was read."""
    headers: dict[str, str] = getattr(request.state, "response_headers", {})
    return headers


def add_ignored_fields(request: Request, names: Iterable[str]) -> None:
    """List ignored fields in the response, after those that are listed already."""
    listed: dict[str, None] = getattr(request.state, "ignored_fields", {})
    request.state.ignored_fields = listed | dict.fromkeys(names)
    if request.state.ignored_fields:
        add_response_header(request, IGNORED_HEADER, _names(request.state.ignored_fields))


def _names(ignored: Iterable[str]) -> str:
    """Return the names as the value of a header: they were chosen by the client, so only safe characters are kept."""
    names = [UNSAFE.sub("?", name[:MAX_NAME]) for name in ignored]
    more = [f"and {len(names) - MAX_NAMES} more"] if len(names) > MAX_NAMES else []
    return ", ".join([*names[:MAX_NAMES], *more])


def parse_json(raw: bytes) -> Any:
    """Parse a body. Raises RequestValidationError."""
    if not raw.strip():
        raise _error("empty_body", "the body is empty; send a JSON object")
    if _is_too_complex(raw):
        raise _error(
            "json_invalid", f"the body has more than {MAX_OBJECTS:,} objects, or numbers of 400 digits; send less"
        )
    try:
        return json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_unique_keys)
    except RecursionError:
        raise _error("json_invalid", "the body is nested too deeply; send a flatter object") from None
    except UnicodeDecodeError as error:
        raise _error("json_invalid", "the body is not UTF-8; encode it as UTF-8", error.start) from None
    except json.JSONDecodeError as error:
        reason = f"the body is not valid JSON ({error.msg} at character {error.pos}); repair it"
        raise _error("json_invalid", reason, error.pos) from None
    except ValueError:  # Python's limit, which is there because the conversion takes quadratic time
        raise _error("json_invalid", "the body contains a number of more than 4,300 digits; shorten it") from None


def add_request_bodies(schema: Json, routes: list[BaseRoute]) -> None:
    """Add the bodies that ``request_body`` reads to an OpenAPI schema, to which FastAPI adds only its own."""
    readers = [(route, reader) for route in routes if isinstance(route, APIRoute) and (reader := _body_reader(route))]
    models = list(dict.fromkeys(reader.model for _, reader in readers))
    references, definitions = models_json_schema([(model, "validation") for model in models], ref_template=REFERENCE)
    components = schema.setdefault("components", {}).setdefault("schemas", {})
    for name, definition in definitions.get("$defs", {}).items():
        assert components.setdefault(name, definition) == definition, f"two models are named {name}"
    for route, reader in readers:
        content = {"application/json": {"schema": references[reader.model, "validation"]}}
        for method in route.methods or ():
            operation = schema["paths"][route.path_format][method.lower()]
            operation["requestBody"] = {"required": True, "content": content}


def _body_reader(route: APIRoute) -> BodyReader[Any] | None:
    calls = (dependant.call for dependant in route.dependant.dependencies)
    return next((call for call in calls if isinstance(call, BodyReader)), None)


def _check_content_type(value: str | None) -> None:
    """Accept JSON only: pages of other sites can send forms and plain text to a server without asking it."""
    if problem := _content_type_problem(value):
        raise _error("content_type", problem)


@lru_cache(maxsize=64)  # clients send the same few values; parsing one takes 8 microseconds
def _content_type_problem(value: str | None) -> str | None:
    message = email.message.Message()
    message["content-type"] = value or "missing"
    maintype, subtype = message.get_content_maintype(), message.get_content_subtype()
    if maintype != "application" or not (subtype == "json" or subtype.endswith("+json")):
        given = "is missing" if value is None else "is not JSON"
        return f"the content type {given}; send a JSON object as application/json"
    if str(message.get_param("charset", "utf-8")).lower() not in CHARSETS:
        return "the content type has another charset than UTF-8; encode the body as UTF-8"
    return None


def _check_encoding(value: str | None) -> None:
    """Reject compressed bodies: a small one can become larger than any limit."""
    if value and value.strip().lower() != "identity":
        raise _error("content_encoding", "the body has a content encoding; send it uncompressed, without one")


def _is_too_complex(raw: bytes) -> bool:
    """Whether the values in ``raw`` would take too long to parse; what is inside strings does not count."""
    if len(raw) <= LARGE_BODY:
        return False
    outside = raw
    if _has_many_values(raw):
        outside = b"".join(raw.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    return _has_many_values(outside)


def _has_many_values(raw: bytes) -> bool:
    objects = raw.count(b"{") + raw.count(b"[") + raw.count(b":")
    return objects > MAX_OBJECTS or raw.count(b",") > MAX_ELEMENTS or LONG_NUMBER in raw.translate(ZEROS)


def _unique_keys(pairs: list[tuple[str, Any]]) -> Json:
    """Return an object. Raises RequestValidationError for a repeated key: which of its values is meant is unknown."""
    data = dict(pairs)
    if len(data) < len(pairs):
        raise _error("json_invalid", "the body contains an object with a repeated key; give each key once")
    return data


def _error(kind: str, message: str, *location: int) -> RequestValidationError:
    return RequestValidationError([{"type": kind, "loc": ("body", *location), "msg": message, "input": None}])
