"""From a chat to a prompt: the tokenizer's own template, or a plain one.

The plain one is for models that were never taught to chat: each turn is a paragraph that begins with who speaks, and
the last one is left open for the assistant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2.exceptions import TemplateError

from slm_serve.errors import ServeError
from slm_serve.http.schemas.openai_requests import Message

SPEAKERS = {"system": "System", "developer": "System", "user": "User", "assistant": "Assistant"}
STOPS = ("\nUser:", "\nSystem:")  # where the plain one's answer ends: the next turn is not the assistant's


def chat_prompt(tokenizer: Any, messages: Sequence[Message]) -> tuple[str, bool]:
    """The prompt, and whether it is of the tokenizer's own template. Raises ServeError for what that refuses."""
    if not tokenizer.chat_template:
        return plain_prompt(messages), False
    turns = [{"role": message.role, "content": message.text} for message in messages]
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)), True
    except TemplateError as refused:
        raise ServeError(
            422, f"the model's chat template refuses these messages: {refused}", param="messages"
        ) from refused


def plain_prompt(messages: Sequence[Message]) -> str:
    """What models without a template get."""
    turns = [f"{SPEAKERS[message.role]}: {message.text}" for message in messages]
    return "\n\n".join([*turns, "Assistant:"])
