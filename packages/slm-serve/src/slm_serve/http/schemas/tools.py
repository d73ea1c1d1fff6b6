"""Tools of a chat, and calls of them in answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Discriminator, Field, Tag, model_validator

from slm_serve.http.schemas.base.fields import TEXT_TAG, Text
from slm_serve.http.schemas.base.lenience import LenientModel, Unsupported, unsupported_error
from slm_serve.http.schemas.base.refused_fields import FUNCTION_FIELDS

MAX_TOOLS = 128
FUNCTION_NAME = r"^[a-zA-Z0-9_.-]{1,128}$"


class FunctionDefinition(LenientModel):
    """A function that the model may call, with the JSON schema of its arguments."""

    place: ClassVar[str] = "tools.function."
    refused_fields: ClassVar[Mapping[str, Unsupported]] = FUNCTION_FIELDS

    name: Annotated[str, Field(pattern=FUNCTION_NAME)]
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: Annotated[bool | None, Field(description="has no effect: arguments always follow the schema")] = None

    @model_validator(mode="after")
    def _check_parameters(self) -> FunctionDefinition:
        if self.parameters and self.parameters.get("type", "object") != "object":
            raise unsupported_error("parameters", "are not of the type 'object', as arguments are; change the type")
        return self


class Tool(LenientModel):
    """A tool. There are functions only."""

    place: ClassVar[str] = "tools."

    type: Literal["function"] = "function"
    function: FunctionDefinition


class FunctionName(LenientModel):
    """The name of a function."""

    place: ClassVar[str] = "tool_choice.function."

    name: Text


class NamedTool(LenientModel):
    """The function that the model has to call."""

    place: ClassVar[str] = "tool_choice."

    type: Literal["function"] = "function"
    function: FunctionName


def _choice_tag(value: Any) -> str:
    return "<object>" if isinstance(value, dict | NamedTool) else TEXT_TAG


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag(TEXT_TAG)] | Annotated[NamedTool, Tag("<object>")],
    Discriminator(_choice_tag),
]


class ToolFields(LenientModel):
    """The fields of a chat that concern tools."""

    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None

    @property
    def wants_tools(self) -> bool:
        """Whether there are tools that may be called."""
        return bool(self.tools) and self.tool_choice != "none"

    @model_validator(mode="after")
    def _check_choice(self) -> ToolFields:
        names = [tool.function.name for tool in self.tools or ()]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise unsupported_error("tools", f"have two functions named {twice!r}; give each its own name")
        if not names and self.tool_choice not in (None, "none", "auto"):
            raise unsupported_error("tool_choice", "asks for a call and there are no tools; add tools")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise unsupported_error("tool_choice", f"names a function that is not among the tools: {', '.join(names)}")
        return self


class CalledFunction(BaseModel):
    """The name of a called function, and its arguments as JSON."""

    name: str
    arguments: str


class AnswerCall(BaseModel):
    """A call in an answer."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
