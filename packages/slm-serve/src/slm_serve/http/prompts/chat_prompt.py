"""Prompts for chats: by the tokenizer's chat template, or in slm-data's plain format if there is none."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from slm_data import PLAIN_STOPS, ChatTemplate, DataError, LiteralEncoder, choose_template, end_of_turn
from slm_serve.errors import RequestError
from slm_serve.http.prompts.turns import TEMPLATE_ERRORS, chat_turns, render
from slm_serve.http.schemas.messages import Message


@dataclass(frozen=True)
class ChatPrompt:
    """The text that the assistant continues.

    Attributes:
        text: The text.
        add_special_tokens: Whether the tokenizer adds the tokens that it adds to every text; a template writes them.
        stop: Texts that end the assistant's turn where no special token does.
        hidden_text: The text in which the special tokens that were written in messages are hidden; None without any.
    """

    text: str
    add_special_tokens: bool
    stop: tuple[str, ...]
    hidden_text: str | None = None

    def ids(self, tokenizer: Any) -> tuple[int, ...]:
        """Return the token ids; special tokens in messages are plain text, so that no message can end its turn."""
        encoder = _literal_encoder(tokenizer) if self.hidden_text is not None else None
        if encoder and self.hidden_text is not None:
            return tuple(encoder(self.hidden_text, add_special_tokens=self.add_special_tokens))
        return tuple(tokenizer(self.text, add_special_tokens=self.add_special_tokens, verbose=False)["input_ids"])


def chat_prompt(
    tokenizer: Any,
    messages: Sequence[Message],
    *,
    continue_final: bool = False,
    opens_answer: bool = True,
    variables: Mapping[str, Any] | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
) -> ChatPrompt:
    """Return the prompt for the answer to ``messages``.

    Args:
        continue_final: The text ends within the last message, of the assistant, which the answer continues.
        opens_answer: The text ends with the beginning of the assistant's turn.
        variables: More variables for the template.
        tools: Tools that the assistant may call.

    Raises RequestError 422 if the template rejects or leaves out messages.
    """
    options = {"add_generation_prompt": opens_answer and not continue_final, "continue_final_message": continue_final}
    if variables:
        _check_variables(tokenizer, variables)
    try:
        template = chat_template(tokenizer, with_tools=bool(tools))
        turns, encoder = chat_turns(template, tokenizer, messages), _literal_encoder(tokenizer)
        shown = _map_texts({"turns": turns, "tools": list(tools) or None}, encoder.hide if encoder else str)
        hidden = render(template, tokenizer, shown["turns"], tools=shown["tools"], **options, **(variables or {}))
    except RequestError:
        raise
    except (DataError, *TEMPLATE_ERRORS) as error:
        reason = f"the model's chat template rejects these messages: {error}"
        raise RequestError(422, reason, param="messages") from error
    text = encoder.reveal(hidden) if encoder else hidden
    stop = PLAIN_STOPS if template.is_plain else spelled_out_end(template, tokenizer)
    return ChatPrompt(text, template.is_plain, stop, hidden if hidden != text else None)


def chat_template(tokenizer: Any, *, with_tools: bool = False) -> ChatTemplate:
    """Return the template; some tokenizers have another one for chats with tools. Raises DataError."""
    if with_tools and isinstance(tokenizer.chat_template, dict) and "tool_use" in tokenizer.chat_template:
        return ChatTemplate("of the tokenizer, for tools", tokenizer.chat_template["tool_use"])
    return choose_template(None, tokenizer)


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Return a value of objects and lists with all texts in it changed, except for the keys of objects."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _map_texts(each, change) for key, each in value.items()}
    return [_map_texts(each, change) for each in value] if isinstance(value, list) else value


@lru_cache(maxsize=16)
def _literal_encoder(tokenizer: Any) -> LiteralEncoder | None:
    """Return the encoder that reads special tokens as plain text; None for tokenizers for which that is impossible."""
    try:
        return LiteralEncoder(tokenizer)
    except DataError:
        return None


def _check_variables(tokenizer: Any, variables: Mapping[str, Any]) -> None:
    """Reject variables that are arguments of transformers instead of the template's."""
    arguments = {"messages", *inspect.signature(tokenizer.apply_chat_template).parameters}
    if taken := sorted(arguments & variables.keys()):
        raise RequestError(
            422, f"chat_template_kwargs cannot set {taken[0]!r}; leave it out", param="chat_template_kwargs"
        )


@lru_cache(maxsize=16)
def spelled_out_end(template: ChatTemplate, tokenizer: Any) -> tuple[str, ...]:
    """Return the end-of-turn marker of a template whose marker is not a token of the vocabulary."""
    try:
        end = end_of_turn(template, tokenizer)
    except DataError:  # the template demands other messages than a question and its answer
        return ()
    return (end,) if end and end not in tokenizer.get_vocab() else ()
