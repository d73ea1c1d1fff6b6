"""Conversion of a request for ``/v1/responses`` to a chat."""

from __future__ import annotations

from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from slm_serve.errors import RequestError
from slm_serve.http.schemas.base.lenience import Reading
from slm_serve.http.schemas.chat import ChatRequest
from slm_serve.http.schemas.responses import SHARED_FIELDS, Item, ResponsesRequest

Json = dict[str, Any]
TOOL_FIELDS = ("name", "description", "parameters", "strict")
TEXT_PARTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
ITEM_FIELDS = ("type", "id", "status", "phase")  # of messages, which chats do not have


def chat_request(request: ResponsesRequest) -> tuple[ChatRequest, list[str]]:
    """Return the chat that asks for the same, and the names of ignored fields in the input and in formats.

    Raises RequestError 422 for what a chat cannot express, such as images, and RequestValidationError for items, tools
    and formats with invalid fields.
    """
    places, messages = _messages(request)
    body = {
        "model": request.model,
        "messages": messages,
        "max_completion_tokens": request.max_output_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "logprobs": request.wants_logprobs or None,
        "top_logprobs": request.top_logprobs or None,
        "tools": [_chat_tool(index, tool) for index, tool in enumerate(request.tools or ())] or None,
        "tool_choice": _chat_tool_choice(request.tool_choice),
        "parallel_tool_calls": request.parallel_tool_calls if request.tools else None,
        "response_format": _chat_format(request.text.format if request.text else None),
        **{name: getattr(request, name) for name in SHARED_FIELDS},
    }
    reading = Reading(strict=False)
    try:
        return ChatRequest.model_validate(body, context=reading), [_ignored_name(name) for name in reading.ignored]
    except ValidationError as error:
        problems = error.errors(include_url=False)
    raise RequestValidationError([problem | {"loc": ("body", *_place(problem["loc"], places))} for problem in problems])


def _place(location: tuple[int | str, ...], places: list[str]) -> tuple[int | str, ...]:
    """Return where the field of a chat came from."""
    if location[:1] == ("messages",) and len(location) > 1 and isinstance(location[1], int):
        return (places[location[1]], *location[2:])
    names = {"messages": "input", "response_format": "text.format", "max_completion_tokens": "max_output_tokens"}
    return tuple(names.get(str(part), part) for part in location)


def _ignored_name(name: str) -> str:
    return name.replace("messages.", "input.").replace("response_format.json_schema.", "text.format.")


def _messages(request: ResponsesRequest) -> tuple[list[str], list[Json]]:
    """Return the places and messages of instructions and input. A call belongs to the assistant's message before it."""
    places: list[str] = []
    messages: list[Json] = []
    if request.instructions is not None:
        places, messages = ["instructions"], [{"role": "system", "content": request.instructions}]
    if isinstance(request.input, str):
        return [*places, "input"], [*messages, {"role": "user", "content": request.input}]
    for index, item in enumerate(request.input):
        message = _message(index, item)
        if message and "tool_calls" in message and messages and messages[-1]["role"] == "assistant":
            messages[-1].setdefault("tool_calls", []).extend(message["tool_calls"])
        elif message:
            places.append(f"input.{index}")
            messages.append(message)
    return places, messages


def _message(index: int, item: Item) -> Json | None:
    """Return one item as a message; None for the reasoning of an earlier turn, which templates leave out."""
    kind = item.get("type") or "message"
    place = f"input.{index}"
    if kind == "message":
        fields = {name: value for name, value in item.items() if name not in ITEM_FIELDS}
        return fields | {"content": _content(f"{place}.content", item.get("content"))}
    if kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}
    if kind == "function_call_output":
        content = _content(f"{place}.output", item.get("output"))
        return {"role": "tool", "tool_call_id": item.get("call_id"), "content": content}
    if kind == "reasoning":
        return None
    raise _unsupported(place, f"items of type {kind!r}", "messages, function calls and their outputs")


def _content(place: str, content: Any) -> Any:
    if not isinstance(content, list):
        return content
    return [_part(f"{place}.{index}", part) for index, part in enumerate(content)]


def _part(place: str, part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    kind = part.get("type")
    if not isinstance(kind, str) or kind not in TEXT_PARTS:
        raise _unsupported(place, f"parts of type {kind!r}", "input_text")
    return {"type": "text", "text": part.get(TEXT_PARTS[kind])}


def _chat_tool(index: int, tool: Item) -> Json:
    if tool.get("type") != "function":
        raise _unsupported(f"tools.{index}", f"tools of type {tool.get('type')!r}", "functions")
    function = {name: tool[name] for name in TOOL_FIELDS if tool.get(name) is not None}
    return {"type": "function", "function": function}


def _chat_tool_choice(choice: str | Item | None) -> str | Json | None:
    if not isinstance(choice, dict):
        return choice
    if choice.get("type") != "function":
        raise _unsupported(
            "tool_choice", f"a choice of type {choice.get('type')!r}", "auto, required, none or a function"
        )
    return {"type": "function", "function": {"name": choice.get("name")}}


def _chat_format(text_format: Item | None) -> Json | None:
    if text_format is None or text_format.get("type") != "json_schema":
        return text_format
    schema = {name: value for name, value in text_format.items() if name != "type"}
    return {"type": "json_schema", "json_schema": schema}


def _unsupported(place: str, what: str, remedy: str) -> RequestError:
    return RequestError(422, f"{place}: {what} are not supported; use {remedy}", param=place)
