"""Schemas whose objects have the properties that are named, and no others.

A schema without a word on other properties allows any. A model that is unsure goes on writing some of them, so they are
excluded, as xgrammar does by default: what is written is valid by the original schema, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_SUBSCHEMAS = ("items", "additionalProperties", "additionalItems")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_OPENING = {"additionalProperties", "patternProperties", "unevaluatedProperties"}  # say themselves what is allowed
_ANNOTATIONS = {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment"}
_ROOT_ONLY = {"$defs", "definitions", "$schema", "$id", "x-guidance"}


def closed_schema(schema: Any) -> Any:
    """Return ``schema`` with ``additionalProperties: false`` in objects that name their properties.

    It is returned as it is if an object is the combination of several schemas, each of which then has properties of
    the others.
    """
    return schema if any(map(_is_combined, _schemas(schema))) else _closed(schema)


def _is_combined(schema: Mapping[str, Any]) -> bool:
    keywords = schema.keys() - _ANNOTATIONS - _ROOT_ONLY
    parts = len(schema["allOf"]) if isinstance(schema.get("allOf"), list) else 0
    return parts > 1 or bool({"allOf", "anyOf", "oneOf", "$ref"} & keywords and len(keywords - {"type"}) > 1)


def _schemas(schema: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the schema and all schemas inside."""
    if isinstance(schema, dict):
        yield schema
        for inner in _inner(schema):
            yield from _schemas(inner)


def _inner(schema: Mapping[str, Any]) -> Iterator[Any]:
    yield from (schema[name] for name in _SUBSCHEMAS if name in schema)
    for name in _LISTS:
        yield from schema[name] if isinstance(schema.get(name), list) else ()
    for name in _MAPS:
        yield from schema[name].values() if isinstance(schema.get(name), dict) else ()


def _closed(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    result = dict(schema)
    for name in _SUBSCHEMAS:
        if name in result:
            result[name] = _closed(result[name])
    for name in _LISTS:
        if isinstance(result.get(name), list):
            result[name] = [_closed(each) for each in result[name]]
    for name in _MAPS:
        if isinstance(result.get(name), dict):
            result[name] = {key: _closed(each) for key, each in result[name].items()}
    if isinstance(result.get("properties"), dict) and not _OPENING & result.keys() and _names_required(result):
        result["additionalProperties"] = False
    return result


def _names_required(schema: Mapping[str, Any]) -> bool:
    """Whether all required properties are named."""
    required = schema.get("required", [])
    return isinstance(required, list) and all(name in schema["properties"] for name in required)
