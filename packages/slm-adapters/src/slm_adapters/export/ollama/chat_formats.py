"""Chat formats that are recognised by what a chat template renders, and written as Ollama's Go templates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jinja2.exceptions import TemplateError

Message = dict[str, str]

_SYSTEM, _QUESTION, _ANSWER, _FOLLOW_UP = "slmsystem", "slmquestion", "slmanswer", "slmfollowup"


@dataclass(frozen=True)
class ChatFormat:
    """A format in which each message is its text between two marks that depend on its role.

    Attributes:
        name: Name for people.
        marks: The text before and after a message, by role.
        answer: The text after which the model answers.
        joint: The text between messages.
        stops: Texts with which the next turn of another speaker would begin, for formats without an end token.
    """

    name: str
    marks: dict[str, tuple[str, str]]
    answer: str
    joint: str = ""
    stops: tuple[str, ...] = ()

    def render(self, messages: list[Message]) -> str:
        """Return the prompt for an answer to ``messages``."""
        turns = [self.marks[message["role"]][0] + message["content"] for message in messages]
        ends = [self.marks[message["role"]][1] for message in messages]
        return self.joint.join(turn + end for turn, end in zip(turns, ends, strict=True)) + self.joint + self.answer

    @property
    def go_template(self) -> str:
        """The template for Ollama, which renders the same text."""
        cases = [
            f'{{{{ if eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}{{{{ end }}}}'
            for role, (before, after) in self.marks.items()
        ]
        turn = "".join(cases) + self.joint
        return f"{{{{- range .Messages }}}}{turn}{{{{ end }}}}{self.answer}"


@dataclass(frozen=True)
class RecognisedFormat:
    """A format, the text that the template puts before it, and the system message that it adds where there is none."""

    format: ChatFormat
    start: str
    system: str | None


def formats(eos: str) -> tuple[ChatFormat, ...]:
    """Return the known formats; ``eos`` is the text of the end token, which some of them contain."""
    roles = ("system", "user", "assistant")
    header = "<|start_header_id|>{}<|end_header_id|>\n\n"
    return (
        ChatFormat(
            "ChatML",
            {role: (f"<|im_start|>{role}\n", "<|im_end|>\n") for role in roles},
            "<|im_start|>assistant\n",
        ),
        ChatFormat(
            "Llama 3",
            {role: (header.format(role), "<|eot_id|>") for role in roles},
            header.format("assistant"),
        ),
        ChatFormat("Zephyr", {role: (f"<|{role}|>\n", f"{eos}\n") for role in roles}, "<|assistant|>\n"),
        ChatFormat("Phi-3", {role: (f"<|{role}|>\n", "<|end|>\n") for role in roles}, "<|assistant|>\n"),
        ChatFormat(
            "Gemma",
            {
                "user": ("<start_of_turn>user\n", "<end_of_turn>\n"),
                "assistant": ("<start_of_turn>model\n", "<end_of_turn>\n"),
            },
            "<start_of_turn>model\n",
        ),
        ChatFormat(
            "plain",
            {"system": ("System: ", ""), "user": ("User: ", ""), "assistant": ("Assistant: ", "")},
            "Assistant:",
            joint="\n\n",
            stops=("\nUser:", "\nSystem:"),
        ),
    )


def recognise_format(tokenizer: Any) -> RecognisedFormat | None:
    """Return the format of a tokenizer's chat template; None if there is no template, or it is another one."""
    if not isinstance(tokenizer.chat_template, str):
        return None
    for known in formats(tokenizer.eos_token or ""):
        if found := _compare(tokenizer, known):
            return found
    return None


def _compare(tokenizer: Any, known: ChatFormat) -> RecognisedFormat | None:
    turns = [
        {"role": "user", "content": _QUESTION},
        {"role": "assistant", "content": _ANSWER},
        {"role": "user", "content": _FOLLOW_UP},
    ]
    system = [{"role": "system", "content": _SYSTEM}] if "system" in known.marks else []
    rendered, expected = _render(tokenizer, system + turns), known.render(system + turns)
    if rendered is None or not rendered.endswith(expected):
        return None
    start = rendered.removesuffix(expected)
    if start not in ("", tokenizer.bos_token):
        return None
    return _with_default_system(known, start, _render(tokenizer, turns), known.render(turns))


def _with_default_system(known: ChatFormat, start: str, rendered: str | None, expected: str) -> RecognisedFormat | None:
    if rendered == start + expected:
        return RecognisedFormat(known, start, None)
    before, after = known.marks.get("system", ("", ""))
    head, tail = start + before, after + known.joint + expected
    if rendered is None or not before or not (rendered.startswith(head) and rendered.endswith(tail)):
        return None
    return RecognisedFormat(known, start, rendered[len(head) : -len(tail)])


def _render(tokenizer: Any, messages: list[Message]) -> str | None:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except (TemplateError, ValueError, TypeError, KeyError, IndexError):
        return None  # such as a format without system messages
