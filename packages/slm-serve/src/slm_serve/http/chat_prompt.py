"""Prompts for chats: by the tokenizer's chat template, or in a plain format.

The plain format is for models that were never trained to chat: each turn is a paragraph that begins with the speaker,
and the last paragraph, the assistant's, contains only the speaker.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2.exceptions import TemplateError

from slm_serve.errors import RequestError
from slm_serve.http.schemas.chat import Message

SPEAKERS = {"system": "System", "developer": "System", "user": "User", "assistant": "Assistant"}
PLAIN_STOPS = ("\nUser:", "\nSystem:")  # stop strings of the plain format: where the next turn would begin


def chat_prompt(tokenizer: Any, messages: Sequence[Message]) -> tuple[str, bool]:
    """Return the prompt, and whether it was made by the tokenizer's chat template.

    Raises RequestError 422 if the template rejects the messages.
    """
    if not tokenizer.chat_template:
        return plain_prompt(messages), False
    turns = [{"role": message.role, "content": message.text} for message in messages]
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)), True
    except TemplateError as error:
        raise RequestError(
            422, f"the model's chat template rejects these messages: {error}", param="messages"
        ) from error


def plain_prompt(messages: Sequence[Message]) -> str:
    """Return the prompt for a model without a chat template."""
    turns = [f"{SPEAKERS[message.role]}: {message.text}" for message in messages]
    return "\n\n".join([*turns, "Assistant:"])
