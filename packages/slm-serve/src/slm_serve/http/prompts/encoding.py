"""Prompts of requests under /v1 as token ids: rendered, tokenized, and cut off if the server does that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from fastapi import Request

from slm_serve.http.prompts.chat_prompt import chat_prompt
from slm_serve.http.prompts.limits import PromptLimits
from slm_serve.http.request_body import add_response_header
from slm_serve.http.schemas.chat import ChatRequest
from slm_serve.http.schemas.completions import CompletionRequest
from slm_serve.http.schemas.messages import Message
from slm_serve.http.token_decoder import prompt_offsets
from slm_serve.service import LONG_TEXT, Service

T = TypeVar("T")
TRUNCATED_HEADER = "x-slm-truncated"
MANY_TOKENS = 5000  # above which prompts are decoded on a thread
MANY_MESSAGES = 50  # above which a chat is rendered on a thread


@dataclass(frozen=True)
class EncodedChat:
    """The token ids of a chat, the texts that end its answer, and how many of its turns were dropped."""

    ids: tuple[int, ...]
    stop: tuple[str, ...]
    dropped: int = 0


@dataclass(frozen=True)
class EncodedPrompt:
    """The token ids of a prompt.

    Attributes:
        text: Its text, if it is echoed.
        offsets: Where its tokens begin in the text, if they are needed.
        dropped: How many tokens were dropped.
    """

    ids: tuple[int, ...]
    text: str
    offsets: tuple[int, ...] = ()
    dropped: int = 0


async def encode_chat(
    request: Request, body: ChatRequest, service: Service, model: str, tools: Sequence[dict[str, Any]] = ()
) -> EncodedChat:
    """Return the prompt of a chat. Raises RequestError for messages that are rejected or do not fit."""
    encode = partial(_encode_chat, body, service, service.backend.tokenizers[model], tools)
    encoded = await _run(encode, on_thread=_is_long(body.messages))
    _announce(request, encoded.dropped, "turns")
    return encoded


async def encode_messages(messages: Sequence[Message], service: Service, model: str) -> tuple[int, ...]:
    """Return the prompt for the answer to ``messages``, which need not fit. Raises RequestError."""
    tokenizer = service.backend.tokenizers[model]
    return await _run(lambda: chat_prompt(tokenizer, messages).ids(tokenizer), on_thread=_is_long(messages))


async def encode_prompts(
    request: Request, body: CompletionRequest, service: Service, model: str
) -> list[EncodedPrompt]:
    """Return the prompts of a completion. Raises RequestError for prompts that do not fit."""
    prompts = body.prompts
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    ids = iter(await service.tokenize_many(texts, model, body.add_special_tokens is not False))
    encoded = [
        EncodedPrompt(next(ids), prompt) if isinstance(prompt, str) else EncodedPrompt(tuple(prompt), "")
        for prompt in prompts
    ]
    fitting = [_fit(each, body.max_tokens, service) for each in encoded]
    _announce(request, sum(each.dropped for each in fitting), "tokens")
    if not body.echo:
        return fitting
    tokenizer = service.backend.tokenizers[model]
    is_long = sum(len(each.ids) for each in fitting) > MANY_TOKENS
    return await _run(lambda: [_with_text(each, body, tokenizer) for each in fitting], on_thread=is_long)


async def _run(work: Callable[[], T], *, on_thread: bool) -> T:
    return await asyncio.to_thread(work) if on_thread else work()


def _is_long(messages: Sequence[Message]) -> bool:
    return len(messages) > MANY_MESSAGES or sum(len(message.text) for message in messages) > LONG_TEXT


def _announce(request: Request, dropped: int, unit: str) -> None:
    if dropped:
        add_response_header(request, TRUNCATED_HEADER, f"{dropped} {unit[:-1] if dropped == 1 else unit}")


def _encode_chat(body: ChatRequest, service: Service, tokenizer: Any, tools: Sequence[dict[str, Any]]) -> EncodedChat:
    limits, requested = PromptLimits.of(service), body.token_limit

    def encode(messages: Sequence[Message]) -> EncodedChat:
        prompt = chat_prompt(
            tokenizer,
            messages,
            continue_final=bool(body.continue_final_message),
            opens_answer=body.add_generation_prompt is not False,
            variables=body.chat_template_kwargs,
            tools=tools,
        )
        return EncodedChat(prompt.ids(tokenizer), prompt.stop)

    encoded, longest = encode(body.messages), limits.truncated_prompt(requested)
    if service.settings.truncate_prompt and len(encoded.ids) > longest:
        encoded = _latest_turns(body.messages, encode, longest)
    limits.check_prompt(len(encoded.ids), "messages")
    return encoded


def _latest_turns(
    messages: Sequence[Message], encode: Callable[[Sequence[Message]], EncodedChat], longest: int
) -> EncodedChat:
    """Drop as few of the oldest turns as possible; system messages and the latest turn always remain.

    A turn is a message of the user with everything up to the next one.
    """
    starts = [index for index, message in enumerate(messages) if message.role == "user"] or [0]

    def without(turns: int) -> EncodedChat:
        system = [each for each in messages[: starts[turns]] if each.role in ("system", "developer")]
        return replace(encode([*system, *messages[starts[turns] :]]), dropped=turns)

    low, high = 0, len(starts) - 1  # the number of dropped turns
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(without(middle).ids) <= longest else (middle + 1, high)
    return without(low)


def _fit(prompt: EncodedPrompt, requested: int | None, service: Service) -> EncodedPrompt:
    limits = PromptLimits.of(service)
    longest = limits.truncated_prompt(16 if requested is None else requested)
    if service.settings.truncate_prompt and (dropped := len(prompt.ids) - longest) > 0:
        prompt = EncodedPrompt(prompt.ids[dropped:], "", dropped=dropped)
    limits.check_prompt(len(prompt.ids), "prompt")
    return prompt


def _with_text(prompt: EncodedPrompt, body: CompletionRequest, tokenizer: Any) -> EncodedPrompt:
    """Add the text of a prompt that was given as ids or was shortened, and the offsets for log-probabilities."""
    text = prompt.text or str(tokenizer.decode(list(prompt.ids), skip_special_tokens=True))
    offsets = () if body.logprobs is None else prompt_offsets(tokenizer, prompt.ids, text)
    return replace(prompt, text=text, offsets=offsets)
