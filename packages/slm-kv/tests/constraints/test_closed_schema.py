"""Objects get no properties beside those that a schema names, unless it says otherwise."""

from typing import Any

import pytest

from slm_kv.constraints.closed_schema import closed_schema

OPEN: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}}
CLOSED = OPEN | {"additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (OPEN, CLOSED),
        ({"type": "object"}, {"type": "object"}),
        (OPEN | {"additionalProperties": True}, OPEN | {"additionalProperties": True}),
        (OPEN | {"patternProperties": {"b": {}}}, OPEN | {"patternProperties": {"b": {}}}),
        ({"type": "array", "items": OPEN}, {"type": "array", "items": CLOSED}),
        ({"anyOf": [OPEN, {"type": "null"}]}, {"anyOf": [CLOSED, {"type": "null"}]}),
        ({"allOf": [OPEN], "description": "d"}, {"allOf": [CLOSED], "description": "d"}),
        ({"$ref": "#/$defs/b", "$defs": {"b": OPEN}}, {"$ref": "#/$defs/b", "$defs": {"b": CLOSED}}),
        ({"properties": {"properties": OPEN}}, {"properties": {"properties": CLOSED}, "additionalProperties": False}),
        (OPEN | {"required": ["b"]}, OPEN | {"required": ["b"]}),
        (True, True),
    ],
)
def test_objects_that_name_their_properties_are_closed(schema: Any, expected: Any) -> None:
    assert closed_schema(schema) == expected


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [OPEN, {"properties": {"b": {}}}]},
        OPEN | {"anyOf": [{"properties": {"b": {}}}, {"properties": {"c": {}}}]},
        {"$defs": {"b": OPEN}, "$ref": "#/$defs/b", "properties": {"c": {}}},
        {"type": "array", "items": OPEN | {"$ref": "#/$defs/b"}, "$defs": {"b": OPEN}},
    ],
)
def test_combined_schemas_stay_as_they_are(schema: Any) -> None:
    assert closed_schema(schema) == schema
