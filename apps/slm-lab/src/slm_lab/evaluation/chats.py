"""Prompts as token ids; chats by the model's own template, as slm-serve renders them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from slm_data import PLAIN_STOPS, ChatTemplate, DataError, LiteralEncoder, choose_template, end_of_turn
from slm_lab.errors import LabError
from slm_lab.evaluation.prompt_file import Prompt


@dataclass(frozen=True)
class EncodedPrompt:
    """Token ids, and texts that end the answer where no special token does."""

    ids: tuple[int, ...]
    stop: tuple[str, ...] = ()


class PromptEncoder:
    """Encodes prompts with a tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._template: ChatTemplate | None = None
        self._literal: LiteralEncoder | None = None

    def encode(self, prompt: Prompt) -> EncodedPrompt:
        """Encode a text or a chat.

        Raises:
            LabError: The template rejects the messages, or leaves one out.
            DataError: The tokenizer has several templates and no default one.
        """
        if prompt.text is not None:
            return EncodedPrompt(tuple(self.tokenizer(prompt.text, verbose=False)["input_ids"]))
        template, literal = self._prepare()
        hide: Callable[[str], str] = literal.hide if literal else str
        turns = [{"role": role, "content": hide(content)} for role, content in prompt.messages]
        text = self._render(template, turns)
        if lost := next((turn for turn in turns if turn["content"].strip() not in text), None):
            raise LabError(f"the model's chat template leaves out a message of the role {lost['role']!r}")
        return EncodedPrompt(self._ids(text, template, literal), self._stops(template))

    def _prepare(self) -> tuple[ChatTemplate, LiteralEncoder | None]:
        if self._template is None:
            self._template = choose_template(None, self.tokenizer)
            try:
                self._literal = LiteralEncoder(self.tokenizer)
            except DataError:  # a tokenizer that cannot read special tokens in messages as plain text
                self._literal = None
        return self._template, self._literal

    def _render(self, template: ChatTemplate, turns: Sequence[dict[str, str]]) -> str:
        from jinja2.exceptions import TemplateError

        try:
            return str(
                self.tokenizer.apply_chat_template(
                    turns, chat_template=template.source, tokenize=False, add_generation_prompt=True
                )
            )
        except (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise LabError(f"the model's chat template rejects the messages: {error}") from error

    def _ids(self, text: str, template: ChatTemplate, literal: LiteralEncoder | None) -> tuple[int, ...]:
        if literal:
            return tuple(literal(text, add_special_tokens=template.is_plain))
        return tuple(self.tokenizer(text, add_special_tokens=template.is_plain, verbose=False)["input_ids"])

    def _stops(self, template: ChatTemplate) -> tuple[str, ...]:
        if template.is_plain:
            return PLAIN_STOPS
        try:
            end = end_of_turn(template, self.tokenizer)
        except DataError:  # the template demands other messages than a question and its answer
            return ()
        return (end,) if end and end not in self.tokenizer.get_vocab() else ()
