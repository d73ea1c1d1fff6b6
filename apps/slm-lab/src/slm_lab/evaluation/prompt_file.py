"""The JSONL file of ``--prompts``: prompts or chats, with the answers that are expected."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slm_lab.errors import LabError

KEYS = ("prompt", "messages", "expected")


@dataclass(frozen=True)
class Prompt:
    """A text to be continued, or a chat to be answered.

    Attributes:
        text: The text; None for a chat.
        messages: Role and content of each message; empty for a text.
        expected: Right answers; empty if none is known.
    """

    text: str | None
    messages: tuple[tuple[str, str], ...] = ()
    expected: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """The prompt as people read it."""
        return self.text if self.text is not None else "\n".join(f"{role}: {text}" for role, text in self.messages)


@dataclass(frozen=True)
class PromptFile:
    """The prompts of a file, its name, and a digest of its content."""

    name: str
    prompts: tuple[Prompt, ...]
    digest: str


def read_prompts(path: Path) -> PromptFile:
    """Read a file with a JSON object in each line; blank lines are skipped.

    Raises:
        LabError: The file cannot be read, or a line is not a prompt.
    """
    try:
        content = path.expanduser().read_bytes()
        lines = content.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise LabError(f"--prompts {path} cannot be read ({error.strerror}); give a JSONL file") from error
    except UnicodeDecodeError as error:
        raise LabError(f"--prompts {path} is not UTF-8 text; convert it") from error
    prompts = tuple(_parse(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip())
    if not prompts:
        raise LabError(f"--prompts {path} has no prompts; write a JSON object with prompt or messages in each line")
    return PromptFile(path.name, prompts, hashlib.blake2b(content, digest_size=8).hexdigest())


def _parse(line: str, where: str) -> Prompt:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise LabError(f"{where} is not JSON ({error}); write a JSON object in each line") from error
    if not isinstance(value, dict) or ("prompt" in value) == ("messages" in value):
        raise LabError(f"{where} must be an object with either 'prompt' or 'messages'")
    if unknown := next((key for key in value if key not in KEYS), None):
        raise LabError(f"{where} has the key {unknown!r}; the keys are {', '.join(KEYS)}")
    expected = _expected(value.get("expected", ()), where)
    if "messages" in value:
        return Prompt(None, _messages(value["messages"], where), expected)
    if not isinstance(value["prompt"], str) or not value["prompt"]:
        raise LabError(f"{where}: 'prompt' must be a text")
    return Prompt(value["prompt"], (), expected)


def _expected(value: Any, where: str) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise LabError(f"{where}: 'expected' must be a text or a list of texts")
    return tuple(texts)


def _messages(value: Any, where: str) -> tuple[tuple[str, str], ...]:
    parsed = [
        (message["role"], message["content"])
        for message in (value if isinstance(value, list) else [])
        if isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str)
    ]
    if not parsed or len(parsed) != len(value):
        raise LabError(f"{where}: 'messages' must be a list of objects with 'role' and 'content', both texts")
    return tuple(parsed)
