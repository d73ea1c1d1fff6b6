"""What a source yields: a text, a conversation, or a prompt with its completion."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Message:
    """A message of a conversation.

    Attributes:
        role: ``system``, ``user`` or ``assistant``.
        content: Its text.
        is_completion: Whether the model learns to write it; only messages of the assistant can be.
    """

    role: str
    content: str
    is_completion: bool = False

    @property
    def is_learned(self) -> bool:
        """Whether there is something to learn: a completion that is not blank."""
        return self.is_completion and bool(self.content.strip())


@dataclass(frozen=True)
class Conversation:
    """Messages in order, and where they come from, for error messages."""

    messages: tuple[Message, ...]
    where: str = ""


@dataclass(frozen=True)
class Pair:
    """A prompt and the completion that follows it directly, without a chat template."""

    prompt: str
    completion: str


Example = str | Conversation | Pair


def text_of_example(example: Example) -> str:
    """Return all that is written in an example, without a chat template."""
    if isinstance(example, Pair):
        return example.prompt + example.completion
    if isinstance(example, Conversation):
        return "\n".join(message.content for message in example.messages)
    return example


def length_of_example(example: Example) -> int:
    """Return the number of characters that are written in an example."""
    if isinstance(example, str):
        return len(example)
    if isinstance(example, Pair):
        return len(example.prompt) + len(example.completion)
    return sum(len(message.content) for message in example.messages)
