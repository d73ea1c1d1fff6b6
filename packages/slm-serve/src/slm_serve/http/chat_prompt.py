"""Prompts for chats: by the tokenizer's chat template, or in slm-data's plain format if there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jinja2.exceptions import TemplateError

from slm_data import PLAIN_STOPS, ChatTemplate, DataError, choose_template, end_of_turn
from slm_serve.errors import RequestError
from slm_serve.http.schemas.chat import Message


@dataclass(frozen=True)
class ChatPrompt:
    """The text that the assistant continues.

    Attributes:
        text: The text.
        add_special_tokens: Whether the tokenizer adds the tokens that it adds to every text; a template writes them.
        stop: Texts that end the assistant's turn where no special token does.
    """

    text: str
    add_special_tokens: bool
    stop: tuple[str, ...]


def chat_prompt(tokenizer: Any, messages: Sequence[Message]) -> ChatPrompt:
    """Return the prompt for the answer to ``messages``.

    Raises RequestError 422 if the template rejects the messages.
    """
    turns = [{"role": message.role, "content": message.text} for message in messages]
    try:
        template = choose_template(None, tokenizer)
        text = tokenizer.apply_chat_template(
            turns, chat_template=template.source, tokenize=False, add_generation_prompt=True
        )
    except (TemplateError, DataError) as error:
        raise RequestError(
            422, f"the model's chat template rejects these messages: {error}", param="messages"
        ) from error
    if template.is_plain:
        return ChatPrompt(str(text), add_special_tokens=True, stop=PLAIN_STOPS)
    return ChatPrompt(str(text), add_special_tokens=False, stop=_spelled_out_end(template, tokenizer))


@lru_cache(maxsize=16)
def _spelled_out_end(template: ChatTemplate, tokenizer: Any) -> tuple[str, ...]:
    """Return the end-of-turn marker of a template whose marker is not a token of the vocabulary."""
    try:
        end = end_of_turn(template, tokenizer)
    except DataError:  # the template demands other messages than a question and its answer
        return ()
    return (end,) if end and end not in tokenizer.get_vocab() else ()
