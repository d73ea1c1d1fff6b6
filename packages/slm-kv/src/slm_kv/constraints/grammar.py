"""The language that an answer must be in. Needs neither torch nor llguidance, so that command lines can read it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from slm_kv.constraints.closed_schema import closed_schema
from slm_kv.errors import GrammarError

GrammarKind = Literal["json_schema", "json_object", "regex", "choice", "lark"]
MAX_CHARACTERS = 100_000
# JSON is written on one line, with at most one space after a comma or colon: a model that is unsure may otherwise write
# spaces up to its last token. (llguidance 1.7 takes whitespace_pattern, but repeats it.)
SCHEMA_OPTIONS: dict[str, Any] = {
    "lenient": False,
    "whitespace_flexible": False,
    "item_separator": ", ?",
    "key_separator": ": ?",
}


@dataclass(frozen=True)
class Grammar:
    """The language that an answer must be in.

    Args:
        kind: What ``text`` is.
        text: A JSON schema, a regular expression that the whole answer matches, a JSON list of strings of which the
            answer is one, or a grammar in Lark's syntax (llguidance's dialect of it; GBNF, as in llama.cpp, is
            converted). ``json_object`` allows any JSON object and has no text.

    Raises:
        GrammarError: the kind is unknown, or the text is too long or not what the kind says.
    """

    kind: GrammarKind
    text: str = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(GrammarKind):
            raise GrammarError(f"the grammar's kind {self.kind!r} is not one of {', '.join(get_args(GrammarKind))}")
        if not isinstance(self.text, str):
            raise GrammarError(f"the grammar's text is a {type(self.text).__name__}; give a string")
        if len(self.text) > MAX_CHARACTERS:
            raise GrammarError(f"the grammar has {len(self.text):,} characters and at most {MAX_CHARACTERS:,} may be")
        if self.kind == "choice":
            self._check_choices()
        elif self.kind == "json_schema" and not isinstance(self.data, dict | bool):
            raise GrammarError("the JSON schema is neither an object nor true or false")
        elif (self.kind == "json_object") != (not self.text):
            raise GrammarError(f"a grammar of kind {self.kind} needs {'no' if self.text else 'a'} text")

    @classmethod
    def from_schema(cls, schema: Mapping[str, Any] | bool) -> Grammar:
        """Return the grammar of JSON texts that are valid by a JSON schema."""
        return cls("json_schema", _to_json(schema))

    @classmethod
    def from_choices(cls, choices: Sequence[str]) -> Grammar:
        """Return the grammar of several texts."""
        return cls("choice", _to_json(list(choices)))

    @staticmethod
    def schema_rule(schema: Mapping[str, Any] | bool) -> str:
        """Return a JSON schema as a part of a rule of a grammar of kind ``lark``."""
        if schema is not False:
            schema = _closed({} if schema is True else dict(schema)) | {"x-guidance": SCHEMA_OPTIONS}
        return f"%json {_to_json(schema)}"

    @property
    def data(self) -> Any:
        """The JSON that ``text`` is. Raises GrammarError."""
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError) as error:
            raise GrammarError(f"the text of a grammar of kind {self.kind} is not JSON: {error}") from error

    def _check_choices(self) -> None:
        choices = self.data
        if not isinstance(choices, list) or not choices or not all(isinstance(choice, str) for choice in choices):
            raise GrammarError("the choices are not a list of at least one string")
        if "" in choices:
            raise GrammarError("one of the choices is empty; leave it out")


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    try:
        return dict(closed_schema(schema))
    except RecursionError as error:
        raise GrammarError("the JSON schema is nested too deeply; give a flatter one") from error


def _to_json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise GrammarError(f"the grammar is not JSON: {error}") from error
