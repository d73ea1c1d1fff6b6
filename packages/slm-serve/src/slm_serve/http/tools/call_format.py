"""How a model writes calls of tools, read from its chat template.

A history with calls is rendered, and what is around their names and arguments is how the model was trained to write
them, such as ``<tool_call>{"name": "NAME", "arguments": ARGUMENTS}</tool_call>`` or ``[TOOL_CALLS] [{"name": ...}]``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from slm_data import ChatTemplate
from slm_serve.errors import RequestError
from slm_serve.http.prompts.turns import TEMPLATE_ERRORS, Turn, render

CONTENT = "slmcontent"
NAMES = ("slm_first_function", "slm_second_function")
ARGUMENTS = ({"slm_key": "slm_one"}, {"slm_key": "slm_two"})
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "A function.",
            "parameters": {"type": "object", "properties": {"slm_key": {"type": "string"}}, "required": ["slm_key"]},
        },
    }
    for name in NAMES
]
LONG_ID, SHORT_ID = "call_{:024x}", "slmcall{:02d}"  # Mistral's templates demand ids of nine letters and digits
QUESTION_TURN: Turn = {"role": "user", "content": "slmquestion"}


@dataclass(frozen=True)
class CallFormat:
    """The text of calls: prefix, name, middle, arguments; then separator, name and so on; and suffix.

    Attributes:
        separator: None if the model writes one call only.
        short_ids: Whether ids of calls must have nine letters and digits.
    """

    prefix: str
    middle: str
    separator: str | None
    suffix: str
    short_ids: bool = False

    @property
    def marker(self) -> str:
        """The beginning of the prefix that no other text has; empty if calls begin like JSON."""
        return re.split(r"\[\s*\{|\{|\n", self.prefix, maxsplit=1)[0].rstrip()


@lru_cache(maxsize=16)
def call_format(template: ChatTemplate, tokenizer: Any) -> CallFormat:
    """Return how calls are written. Raises RequestError 422 for a template without tools, or that cannot be read."""
    try:
        with_tools, without = (_render(template, tokenizer, [QUESTION_TURN], tools) for tools in (TOOLS, None))
    except TEMPLATE_ERRORS as error:
        raise _error(f"the model's chat template rejects tools: {error}") from error
    if with_tools == without:
        raise _error("the model's chat template has no tools; leave them out, or serve a model whose template has them")
    for probe in (Probe(template, tokenizer, ids, encode) for ids in (LONG_ID, SHORT_ID) for encode in (False, True)):
        try:
            return probe.read()
        except TEMPLATE_ERRORS:
            continue
    raise _error("the model's chat template writes calls in a way that this server cannot read; leave the tools out")


@dataclass(frozen=True)
class Probe:
    """Renders calls with ids of one kind, and with arguments as objects or, for some templates, as JSON."""

    template: ChatTemplate
    tokenizer: Any
    ids: str
    encode: bool

    def read(self) -> CallFormat:
        """Return the format. Raises one of TEMPLATE_ERRORS if calls are rejected, or are not in the text."""
        text = self._calls(1)
        name, arguments = _places(text, 0)
        prefix, suffix = self._prefix(text, name[0]), self._suffix(text[arguments[1] :])
        result = CallFormat(prefix, text[name[1] : arguments[0]], self._separator(), suffix, self.ids == SHORT_ID)
        if not prefix or not result.middle or any(self.ids.format(number) in str(result) for number in range(2)):
            raise LookupError("no calls, or calls with ids in them")
        return result

    def _calls(self, count: int, content: str = "") -> str:
        """Return a chat with ``count`` calls at its end, without their ids."""
        calls = []
        for number in range(count):
            arguments: Any = json.dumps(ARGUMENTS[number]) if self.encode else ARGUMENTS[number]
            function = {"name": NAMES[number], "arguments": arguments}
            calls.append({"id": self.ids.format(number), "type": "function", "function": function})
        turn: Turn = {"role": "assistant", "content": content, "tool_calls": calls}
        text = _render(self.template, self.tokenizer, [QUESTION_TURN, turn], TOOLS)
        for number in range(count):
            member = rf'"id":\s*"{self.ids.format(number)}"'
            text = re.sub(rf",\s*{member}|{member},\s*", "", text)
        return text

    def _separator(self) -> str | None:
        try:
            text = self._calls(2)
            first, second = _places(text, 0), _places(text, 1)
        except TEMPLATE_ERRORS:  # the template writes one call only
            return None
        return text[first[1][1] : second[0][0]]

    def _prefix(self, text: str, name: int) -> str:
        """Return the text before a name: after the content, or where the answer begins in templates without content."""
        with_content = self._calls(1, CONTENT)
        if CONTENT in with_content:
            start, end = with_content.index(CONTENT) + len(CONTENT), _places(with_content, 0)[0][0]
            return with_content[start:end].lstrip()
        opened = _render(self.template, self.tokenizer, [QUESTION_TURN], TOOLS, add_generation_prompt=True)
        if not text.startswith(opened):
            raise LookupError("the beginning of the calls was not found")
        return text[len(opened) : name].lstrip()

    def _suffix(self, text: str) -> str:
        """Return the text after the arguments without the end of the turn."""
        turn = {"role": "assistant", "content": CONTENT}
        answer = _render(self.template, self.tokenizer, [QUESTION_TURN, turn], TOOLS)
        end = answer[answer.index(CONTENT) + len(CONTENT) :]
        if text.endswith(end):
            return text.removesuffix(end).rstrip()
        specials = [str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        ends = [text.index(special) for special in specials if special in text]
        return text[: min(ends)].rstrip() if ends else text.rstrip()


def _places(text: str, number: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return where the name and the arguments of a call begin and end. Raises LookupError."""
    # The last one: the list of the tools, at the beginning, has the names, too.
    name = text.rindex(NAMES[number])
    end = name + len(NAMES[number])
    for brace in re.finditer(r"\{", text[end:]):
        try:
            arguments, length = json.JSONDecoder().raw_decode(text[end + brace.start() :])
        except ValueError:
            continue
        if arguments == ARGUMENTS[number]:
            begin = end + brace.start()
            return (name, end), (begin, begin + length)
    raise LookupError("the arguments of the call were not found")


def _render(template: ChatTemplate, tokenizer: Any, turns: Sequence[Turn], tools: Any, **options: Any) -> str:
    return render(template, tokenizer, turns, **({"tools": tools} if tools else {}), **options)


def _error(message: str) -> RequestError:
    return RequestError(422, message, param="tools")
