"""Messages of a conversation, from the forms in which datasets have them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from slm_data.errors import DataError
from slm_data.examples.types import Message

ROLES: Mapping[str, str] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "bot": "assistant",
}
_TOOL_ROLES = {"tool", "function", "function_call", "function_response", "observation", "ipython"}
_TOOL_FIELDS = ("tool_calls", "function_call")


def read_messages(value: Any, where: str) -> tuple[Message, ...]:
    """Return messages with role and content, or from and value, in a list or in JSON.

    Raises:
        DataError: Something else is there, or a message has an unknown role, images, or calls of tools.
    """
    messages = _parsed(value, where)
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise DataError(
            f'{where}: {_shown(value)} is not a list of messages such as {{"role": "user", "content": "..."}}; name '
            "their column with --columns messages=COLUMN, or change --data_format"
        )
    return tuple(_message(message, f"{where}, message {number}") for number, message in enumerate(messages, 1))


def _parsed(value: Any, where: str) -> Any:
    """Return a value, or what it contains if it is the JSON of a list: files such as CSV hold lists as text."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    try:
        return json.loads(value)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{where}: the list of messages is broken JSON ({error}); repair it") from error


def _message(message: Any, where: str) -> Message:
    if not isinstance(message, Mapping):
        raise DataError(f'{where}: {_shown(message)} is not an object such as {{"role": "user", "content": "..."}}')
    role = _role(message, where)
    if any(message.get(name) for name in _TOOL_FIELDS):
        raise DataError(f"{where} calls tools, which are not supported; remove such conversations")
    content = text_content(message.get("content", message.get("value")), where)
    # The weight of OpenAI's format: 0 for a message that the model is not to learn.
    return Message(role, content, role == "assistant" and message.get("weight") != 0)


def _role(message: Mapping[str, Any], where: str) -> str:
    name = message.get("role", message.get("from"))
    if not isinstance(name, str):
        raise DataError(f"{where} has no role; give it one of system, user and assistant")
    if name.lower() in _TOOL_ROLES:
        raise DataError(f"{where} has the role {name!r}: tools are not supported; remove such conversations")
    if name.lower() not in ROLES:
        raise DataError(f"{where} has the unknown role {name!r}; use system, user or assistant")
    return ROLES[name.lower()]


def text_content(content: Any, where: str) -> str:
    """Return the text of a message: a string, or a list of text parts, which are joined.

    Raises:
        DataError: It is something else, such as an image.
    """
    if isinstance(content, str):
        return _encodable(content, where)
    if isinstance(content, Sequence):
        return "".join(_part(part, where) for part in content)
    raise DataError(f"{where} has the content {_shown(content)}, not a text; repair or remove it")


def _part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return _encodable(part, where)
    # Columns of Parquet files hold all keys in each part, those without a value as null.
    kind = part.get("type", "text") if isinstance(part, Mapping) else None
    if kind != "text" or not isinstance(part.get("text"), str):
        shown = kind if isinstance(kind, str) and kind != "text" else _shown(part)
        raise DataError(f"{where} has a part of type {shown}; only text is supported: remove such conversations")
    return _encodable(part["text"], where)


def _encodable(text: str, where: str) -> str:
    try:
        # JSON escapes can produce a lone surrogate, which no tokenizer can encode.
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: half of a surrogate pair at character {error.start}; repair or remove it") from error
    return text


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {value!r:.40}" if value is not None else "null"
