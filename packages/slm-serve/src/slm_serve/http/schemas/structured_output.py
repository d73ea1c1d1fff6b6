"""Formats of the answer: OpenAI's ``response_format`` and vLLM's ``structured_outputs`` and ``guided_*``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, ValidationInfo, model_validator

from slm_kv import Grammar
from slm_serve.http.schemas.base.fields import TEXT_TAG, Text
from slm_serve.http.schemas.base.lenience import LenientModel, Unsupported, is_lenient, refused
from slm_serve.http.schemas.base.refused_fields import RESPONSE_FORMAT_FIELDS

MAX_CHOICES = 10_000


def _empty_to_none(value: Any, info: ValidationInfo) -> Any:
    """Leave out values with which clients ask for nothing."""
    return None if is_lenient(info) and value in ("", [], {}, False) and value is not True else value


def _schema_tag(value: Any) -> str:
    return TEXT_TAG if isinstance(value, str) else "<bool>" if isinstance(value, bool) else "<object>"


Schema = dict[str, Any]
ObjectTag, TextTag = Tag("<object>"), Tag(TEXT_TAG)
SchemaOrText = Annotated[Annotated[Schema, ObjectTag] | Annotated[Text, TextTag], Discriminator(_schema_tag)]
SchemaOrBool = Annotated[Annotated[Schema, ObjectTag] | Annotated[bool, Tag("<bool>")], Discriminator(_schema_tag)]
Choices = Annotated[list[Annotated[Text, Field(min_length=1)]], Field(min_length=1, max_length=MAX_CHOICES)]
OrNothing = BeforeValidator(_empty_to_none)


class JSONSchemaFormat(LenientModel):
    """The ``json_schema`` of a response format. The schema always holds, with ``strict`` or without."""

    place: ClassVar[str] = "response_format.json_schema."

    name: Text | None = None
    description: Text | None = None
    schema_: Annotated[SchemaOrBool, Field(alias="schema")]
    strict: Annotated[bool | None, Field(description="has no effect: the schema always holds")] = None


class ResponseFormat(LenientModel):
    """``text``, any JSON object, or JSON that is valid by a schema."""

    place: ClassVar[str] = "response_format."
    refused_fields: ClassVar[Mapping[str, Unsupported]] = RESPONSE_FORMAT_FIELDS

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JSONSchemaFormat | None = None
    schema_: Annotated[
        SchemaOrBool | None, Field(alias="schema", description="the schema, where other servers expect it")
    ] = None

    @model_validator(mode="after")
    def _check_schema(self) -> ResponseFormat:
        given = [name for name in ("json_schema", "schema_") if getattr(self, name) is not None]
        allowed: dict[str, list[list[str]]] = {
            "text": [[]],
            "json_object": [[], ["schema_"]],
            "json_schema": [["json_schema"], ["schema_"]],
        }
        if given not in allowed[self.type]:
            problem = f"{given[-1].rstrip('_')} is given" if given else "json_schema is missing"
            raise ValueError(f"type is {self.type!r} and {problem}")
        return self

    @property
    def grammar(self) -> Grammar | None:
        """The grammar of the answer. Raises GrammarError."""
        if self.json_schema is not None:
            return Grammar.from_schema(self.json_schema.schema_)
        if self.schema_ is not None and (self.schema_ or self.type == "json_schema"):
            return Grammar.from_schema(self.schema_)
        return Grammar("json_object") if self.type == "json_object" else None


class StructuredOutputs(LenientModel):
    """vLLM's ``structured_outputs``: one of several formats."""

    place: ClassVar[str] = "structured_outputs."
    refused_fields: ClassVar[Mapping[str, Unsupported]] = {
        "structural_tag": refused("use tools"),
        "disable_any_whitespace": refused("leave it out"),
        "disable_additional_properties": refused("set additionalProperties to false in the schema"),
        "whitespace_pattern": refused("leave it out"),
    }

    json_: Annotated[SchemaOrText | None, OrNothing, Field(alias="json")] = None
    regex: Annotated[Text | None, OrNothing] = None
    choice: Annotated[Choices | None, OrNothing] = None
    grammar: Annotated[Text | None, OrNothing, Field(description="in the syntax of Lark or GBNF")] = None
    json_object: Annotated[bool | None, OrNothing] = None


class OutputFormats(LenientModel):
    """The fields of a request that choose the format of the answer."""

    response_format: ResponseFormat | None = None
    # Fields of vLLM, in its present and its older form
    structured_outputs: Annotated[StructuredOutputs | None, OrNothing] = None
    guided_json: Annotated[SchemaOrText | None, OrNothing] = None
    guided_regex: Annotated[Text | None, OrNothing] = None
    guided_choice: Annotated[Choices | None, OrNothing] = None
    guided_grammar: Annotated[Text | None, OrNothing] = None
    guided_json_object: Annotated[bool | None, OrNothing] = None

    def output_grammars(self) -> dict[str, Grammar]:
        """Return the grammars that are asked for, by field. Raises GrammarError."""
        nested = self.structured_outputs or StructuredOutputs()
        grammars = {
            "response_format": self.response_format.grammar if self.response_format else None,
            "structured_outputs.json": _schema_grammar(nested.json_),
            "structured_outputs.regex": _text_grammar("regex", nested.regex),
            "structured_outputs.choice": Grammar.from_choices(nested.choice) if nested.choice else None,
            "structured_outputs.grammar": _text_grammar("lark", nested.grammar),
            "structured_outputs.json_object": Grammar("json_object") if nested.json_object else None,
            "guided_json": _schema_grammar(self.guided_json),
            "guided_regex": _text_grammar("regex", self.guided_regex),
            "guided_choice": Grammar.from_choices(self.guided_choice) if self.guided_choice else None,
            "guided_grammar": _text_grammar("lark", self.guided_grammar),
            "guided_json_object": Grammar("json_object") if self.guided_json_object else None,
        }
        return {name: grammar for name, grammar in grammars.items() if grammar is not None}


def _schema_grammar(schema: Schema | str | None) -> Grammar | None:
    if isinstance(schema, str):
        return Grammar("json_schema", schema)
    return None if schema is None else Grammar.from_schema(schema)


def _text_grammar(kind: Literal["regex", "lark"], text: str | None) -> Grammar | None:
    return None if text is None else Grammar(kind, text)
