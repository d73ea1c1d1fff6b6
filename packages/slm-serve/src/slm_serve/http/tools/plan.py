"""What the tools of a request mean for its prompt, its grammar and its answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from slm_data import ChatTemplate
from slm_kv import Grammar, GrammarError
from slm_serve.errors import RequestError
from slm_serve.http.prompts.chat_prompt import spelled_out_end
from slm_serve.http.schemas.tools import FunctionDefinition, NamedTool, Tool, ToolFields
from slm_serve.http.tools.call_format import CallFormat, call_format
from slm_serve.http.tools.call_grammar import arguments_schema, call_grammar

Json = dict[str, Any]


@dataclass(frozen=True)
class ToolPlan:
    """How a request with tools is answered.

    Attributes:
        definitions: The tools, for the chat template.
        form: How the model writes calls.
        grammar: The grammar of the answer.
        visible_ids: Special tokens that are written around calls.
        required: Whether the answer must be a call.
        has_format: Whether an answer without calls is JSON.
        schemas: The schema of the arguments of each function, by its place in the request.
    """

    definitions: tuple[Json, ...]
    form: CallFormat
    grammar: Grammar
    visible_ids: tuple[int, ...]
    required: bool
    has_format: bool
    schemas: Mapping[str, Json]

    def argument_grammars(self) -> Iterator[tuple[str, Grammar]]:
        """Yield the place and the grammar of the arguments of each function, to find out which one is invalid."""
        for place, schema in self.schemas.items():
            yield place, Grammar.from_schema(schema)


def plan_tools(body: ToolFields, answer: Grammar | None, template: ChatTemplate, tokenizer: Any) -> ToolPlan:
    """Return the plan.

    Args:
        body: A request with tools that may be called.
        answer: The format of an answer without calls.
        template: The chat template.
        tokenizer: The tokenizer.

    Raises RequestError 422 if the model's template has no tools or they cannot be called in the way asked for.
    """
    tools = body.tools or []
    if answer is not None and answer.kind not in ("json_schema", "json_object"):
        raise RequestError(422, "tools and an answer that is not JSON exclude each other; give only one", param="tools")
    form = call_format(template, tokenizer)
    special_ids = {str(token): id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    required = body.tool_choice == "required" or isinstance(body.tool_choice, NamedTool)
    options: Any = {"required": required, "parallel": _is_parallel(body), "answer": answer}
    options["end"] = "".join(spelled_out_end(template, tokenizer))
    functions = _callable_functions(body)
    try:
        grammar = call_grammar(functions, form, special_ids, **options)
    except GrammarError as error:
        raise RequestError(422, str(error), param="tools") from error
    written = f"{form.prefix}{form.separator}{form.suffix}"
    visible = tuple(id for name, id in special_ids.items() if name in written)
    schemas = {f"tools.{n}.function.parameters": arguments_schema(t.function) for n, t in enumerate(tools)}
    return ToolPlan(tuple(map(_definition, tools)), form, grammar, visible, required, answer is not None, schemas)


def _is_parallel(body: ToolFields) -> bool:
    return body.parallel_tool_calls is not False and not isinstance(body.tool_choice, NamedTool)


def _callable_functions(body: ToolFields) -> list[FunctionDefinition]:
    functions = [tool.function for tool in body.tools or ()]
    if isinstance(body.tool_choice, NamedTool):
        return [function for function in functions if function.name == body.tool_choice.function.name]
    return functions


def _definition(tool: Tool) -> Json:
    """Return a tool as chat templates expect it, which use its parameters without asking whether there are any."""
    function = tool.function
    parameters = function.parameters or {"type": "object", "properties": {}}
    described = {"description": function.description} if function.description is not None else {}
    return {"type": "function", "function": {"name": function.name, **described, "parameters": parameters}}
