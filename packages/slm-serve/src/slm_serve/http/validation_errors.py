"""Sentences for pydantic's errors: what is wrong, the value if it is short, and what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from slm_serve.http.schemas.base.lenience import UNSUPPORTED

# Parts of locations that are no fields: tags of unions, and what pydantic calls the members of those without tags.
_INTERNAL = re.compile(r"<|(function-\w+|list|dict|nullable|constrained-\w+|tagged-union|literal)\[|\[key\]$")
_KINDS: dict[type, str] = {str: "a string", bytes: "a string", list: "a list", tuple: "a list", dict: "an object"}
WORD = re.compile(r"[A-Za-z0-9_.-]{1,30}")
NUMBER = re.compile(r"-?[0-9.]{1,30}")
MAX_VALUE = 40  # characters of a value that an error shows
# By pydantic's type of the error, with the fields of its context. The value follows those that say what it must be.
_SENTENCES = {
    "missing": "is missing; give it",
    "extra_forbidden": "is not a field that is known here; leave it out",
    "string_type": "must be a string",
    "string_unicode": "must be a string of Unicode characters",
    "int_type": "must be an integer",
    "int_parsing": "must be an integer",
    "int_from_float": "must be an integer",
    "int_parsing_size": "must be an integer of fewer digits",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "literal_error": "must be {expected}",
    "string_pattern_mismatch": "must match {pattern}",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
    "too_long": "has more than {max_length} items; send fewer",
    "string_too_long": "has more than {max_length} characters; shorten it",
}


def location(problem: Mapping[str, Any]) -> tuple[int | str, ...]:
    """Return where an error is, as names and indices, without the tags of unions."""
    parts = [part for part in problem["loc"] if not (isinstance(part, str) and _INTERNAL.match(part))]
    context = problem.get("ctx") or {}
    return (*parts, context["field"]) if problem["type"] == UNSUPPORTED else tuple(parts)


def sentence(problem: Mapping[str, Any], *, shows_text: bool = False) -> str:
    """Return what is wrong with a field, as a sentence whose subject is the field.

    Args:
        problem: An error of pydantic.
        shows_text: Whether texts are shown as well; a request may contain secrets.
    """
    kind, value = problem["type"], problem.get("input")
    if kind == "too_long" and isinstance(value, str):  # of a text with a validator before its length
        kind = "string_too_long"
    template = _SENTENCES.get(kind)
    if template is None:
        return str(problem["msg"]).removeprefix("Value error, ")
    text = template.format(**{key: _plain(each) for key, each in (problem.get("ctx") or {}).items()})
    # The value of a field with few values is a word, if it is not a text by mistake.
    shows_text = shows_text or (kind == "literal_error" and bool(WORD.fullmatch(str(value))))
    return f"{text}, not {_shown(value, shows_text)}" if text.startswith("must ") and text[5:8] != "not" else text


def with_subject(field: str, text: str) -> str:
    """Return a sentence about ``field``; without one, about the body, or what ``text`` names by itself."""
    if text.split(" ")[0] in ("must", "is", "has", "contains", "belongs"):
        return f"{field or 'the body'} {text}"
    return f"{field}: {text}" if field else text


def _plain(value: Any) -> str:
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _shown(value: Any, shows_text: bool) -> str:
    if isinstance(value, str) and shows_text:
        return value if NUMBER.fullmatch(value) else repr(value[:MAX_VALUE])
    if type(value) in _KINDS:
        return _KINDS[type(value)]
    if value is None or isinstance(value, bool | float):
        return json.dumps(value)
    digits = str(value) if not isinstance(value, int) or value.bit_length() < 4 * MAX_VALUE else ""
    return digits if 0 < len(digits) <= MAX_VALUE else "a longer number"
