"""Rendering conversations and pairs to one text each, with the ranges of characters that have a loss.

What the model writes in a conversation is the content of a completion and the end-of-turn token after it. Where a
content lies in the rendered text is found by rendering the conversation again with another content in its place: the
texts are equal before and after it. That works for any template, also for one that strips or shortens contents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from jinja2.exceptions import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from slm_data.errors import DataError
from slm_data.examples.common_text import common_prefix, common_suffix
from slm_data.examples.templates import ChatTemplate
from slm_data.examples.types import Conversation, Pair

_render_template: Any = render_jinja_template  # its annotations do not fit what it returns (transformers 5.19)

# Stand in for a content: of private use, so that no text begins or ends with them by chance.
_PROBES = ("\ue000\ue001", "\ue002\ue003")
# Templates that insert today's date would render other texts tomorrow.
_DATE = date(2024, 7, 26)

Range = tuple[int, int]


@dataclass(frozen=True)
class Rendered:
    """One text to be tokenised.

    Attributes:
        text: The text.
        scored: Ranges of characters that have a loss, in order.
        literal: Ranges in which special tokens are plain text, in order; None for the whole text. They are only looked
            for in conversations that spell special tokens out.
        adds_special_tokens: Whether the tokenizer adds the tokens that it adds to every text.
        is_open: Whether an end-of-text token is to be appended.
        scores_end: Whether that token has a loss.
    """

    text: str
    scored: tuple[Range, ...]
    literal: tuple[Range, ...] | None = None
    adds_special_tokens: bool = True
    is_open: bool = True
    scores_end: bool = True


def render_pair(pair: Pair) -> Rendered:
    """Return the completion after its prompt."""
    text = pair.prompt + pair.completion
    return Rendered(text, ((len(pair.prompt), len(text)),))


@dataclass(frozen=True)
class ChatRenderer:
    """Renders conversations with a chat template.

    Attributes:
        template: The template.
        end_of_turn: What it writes after a message of the assistant; None for the plain template.
        ends_with_token: Whether that is a single token, which ends a generation.
        special_tokens: The strings of bos_token, eos_token and so on, which templates may use.
    """

    template: ChatTemplate
    end_of_turn: str | None
    ends_with_token: bool
    special_tokens: Mapping[str, str]

    def __call__(self, conversation: Conversation, *, finds_literal: bool = False) -> Rendered:
        """Render a conversation.

        Args:
            conversation: At least one message.
            finds_literal: Whether to find the ranges of all contents.

        Raises:
            DataError: The template rejects the messages, or leaves out a completion.
        """
        messages = conversation.messages
        turns = [{"role": message.role, "content": message.content} for message in messages]
        text = self._render(turns, conversation.where)
        rendered = Rendered(
            text,
            tuple(self._completion(conversation, turns, i, text) for i, m in enumerate(messages) if m.is_learned),
            adds_special_tokens=self.template.is_plain,
            is_open=not self.ends_with_token,
            scores_end=messages[-1].is_learned,
            literal=(),
        )
        if not finds_literal:
            return rendered
        contents = [self._content(turns, index, text, conversation.where) for index in range(len(turns))]
        return replace(rendered, literal=tuple(content for content in contents if content))

    def _render(self, turns: Sequence[Mapping[str, str]], where: str, *, opens_answer: bool = False) -> str:
        try:
            texts, _ = _render_template(
                conversations=[[dict(turn) for turn in turns]],
                chat_template=self.template.source,
                add_generation_prompt=opens_answer,
                strftime_now=_DATE.strftime,
                **self.special_tokens,
            )
        except TemplateError as error:
            raise DataError(
                f"{where}: the chat template {self.template.name} rejects the messages ({error}); change them, or give "
                "another --chat_template"
            ) from error
        return str(texts[0])

    def _completion(self, conversation: Conversation, turns: list[dict[str, str]], index: int, text: str) -> Range:
        """Return the range of what the model writes as message ``index``: content and end of turn."""
        content = self._content(turns, index, text, conversation.where)
        if content is None:
            raise DataError(
                f"{conversation.where}: the chat template {self.template.name} leaves out message {index + 1}; remove "
                "it, or give another --chat_template"
            )
        start, end = self._start(turns, index, text, content[0]), content[1]
        if self.end_of_turn:
            after = end + len(text[end:]) - len(text[end:].lstrip())
            if text.startswith(self.end_of_turn, after):
                end = after + len(self.end_of_turn)
        # Without an end-of-turn token the end-of-text token ends the answer, so what precedes it is written as well.
        is_end = not self.ends_with_token and index == len(turns) - 1
        return start, len(text) if is_end else end

    def _start(self, turns: list[dict[str, str]], index: int, text: str, start: int) -> int:
        """Return where the model begins to write: after the generation prompt, wherever its content begins.

        A template may write something between both, such as a space, or an empty part for reasoning.
        """
        if index == 0:
            return start
        try:
            prompt = self._render(turns[:index], "", opens_answer=True)
            if len(prompt) >= start or not text.startswith(prompt):
                return start
            before = self._render(turns[:index], "")
        except DataError:  # a template may demand that a conversation ends with the assistant
            return start
        # A template without a generation prompt may write the name of the speaker between them.
        is_written = len(prompt) > len(before) or text[len(prompt) : start].isspace()
        return len(prompt) if is_written else start

    def _content(self, turns: list[dict[str, str]], index: int, text: str, where: str) -> Range | None:
        """Return the range of the content of message ``index``; None if the template leaves it out."""
        content = turns[index]["content"]
        probe = next(probe for probe in _PROBES if content[:1] != probe[0] and content[-1:] != probe[1])
        changed = [*turns[:index], turns[index] | {"content": probe}, *turns[index + 1 :]]
        other = self._render(changed, where)
        start = common_prefix(text, other)
        end = len(text) - common_suffix(text[start:], other[start:])
        if start >= end:
            return None
        # A template may look into a content, for example for a part of reasoning, and begin the other one differently.
        whole = content.strip()
        position = text.find(whole, max(0, end - len(whole)), start + len(whole))
        return (position, position + len(whole)) if 0 <= position < start else (start, end)
