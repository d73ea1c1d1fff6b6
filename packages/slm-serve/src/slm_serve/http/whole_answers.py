"""JSON bodies with whole texts. Large ones are made on a thread, so that the event loop serves other clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse, Response

from slm_serve.backends.answer import Delta

LARGE_ANSWER = 5000  # tokens and log-probabilities above which a body is made on a thread; they take about 4 us each


@dataclass
class GeneratedText:
    """The text so far, its number of tokens, and its latest delta."""

    last: Delta = field(default_factory=Delta)
    text: str = ""
    tokens: int = 0

    def add(self, delta: Delta) -> None:
        """Append a delta."""
        self.last = delta
        self.text += delta.text
        self.tokens += len(delta.token_ids)


class ChoicesResponse(JSONResponse):
    """A JSON response whose ``choices`` are encoded one by one: encoding holds the interpreter's lock until its end."""

    def render(self, content: Any) -> bytes:
        choices = [super(ChoicesResponse, self).render(choice) for choice in content.get("choices", ())]
        if not choices:
            return super().render(content)
        rest = super().render({name: value for name, value in content.items() if name != "choices"})
        separator = b"" if rest == b"{}" else b","
        return rest[:-1] + separator + b'"choices":[' + b",".join(choices) + b"]}"


async def whole_answer(
    texts: list[GeneratedText], build_body: Callable[[list[GeneratedText]], dict[str, Any]]
) -> Response:
    """Return the response with the body that ``build_body`` makes from finished texts."""
    if _size(texts) > LARGE_ANSWER:
        return await asyncio.to_thread(lambda: ChoicesResponse(build_body(texts)))
    return JSONResponse(build_body(texts))


def _size(texts: Sequence[GeneratedText]) -> int:
    """Return the number of tokens, with their alternatives."""
    size = 0
    for text in texts:
        logprobs = text.last.logprobs
        size += text.tokens * (1 + len(logprobs[0].top) if logprobs else 1)
    return size
