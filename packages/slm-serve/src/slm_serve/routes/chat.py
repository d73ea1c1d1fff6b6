"""``POST /v1/chat/completions``: OpenAI's."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from slm_serve.answer import Delta
from slm_serve.backend import Job
from slm_serve.chat import STOPS, chat_prompt
from slm_serve.refusals import documented
from slm_serve.routes.common import TheService, Whole, respond
from slm_serve.routes.completions import seeded
from slm_serve.service import Service
from slm_serve.streams import AS_EVENTS, DONE, event
from slm_serve.token_texts import TokenTexts
from slm_serve.wire.openai import (
    AssistantMessage,
    ChatChoice,
    ChatCompletion,
    ChatLogprobs,
    ChatRequest,
    TokenLogprob,
    TopLogprob,
    Usage,
)

if TYPE_CHECKING:
    from slm_kv.sampling import Choice

router = APIRouter(prefix="/v1")


@router.post(
    "/chat/completions",
    response_model=ChatCompletion,
    responses={200: AS_EVENTS, **documented(400, 404, 429, 500, 503, 504, openai=True)},
)
async def chat(body: ChatRequest, request: Request, service: TheService) -> Response:
    """Answer the last message: by the tokenizer's chat template, or a plain one where it has none."""
    jobs = await _jobs(body, service)
    writer = _Writer(body, TokenTexts(service.backend.tokenizer), jobs[0].model, len(jobs[0].prompt_ids))
    return await respond(request, service, jobs, stream=bool(body.stream), events=writer.events, body=writer.completion)


async def _jobs(body: ChatRequest, service: Service) -> list[Job]:
    model, backend = service.model(body.model).name, service.backend
    prompt, templated = chat_prompt(backend.tokenizer, body.messages)
    ids = await service.tokens(prompt, special=not templated)
    room = max(backend.positions - len(ids), 1)
    limit = body.limit or min(room, service.settings.max_new_tokens or room)
    top = (body.top_logprobs or 0) if body.logprobs else None
    jobs = []
    for index in range(body.choices):
        params = body.sampling(limit, top, None, **seeded(body.seed, index))
        stop = params.stop if templated else (*params.stop, *STOPS)
        jobs.append(Job(ids, replace(params, stop=stop), model))
    return jobs


@dataclass
class _Writer:
    """From pieces of texts to OpenAI's bodies."""

    body: ChatRequest
    token_texts: TokenTexts
    model: str
    prompt_tokens: int
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def completion(self, texts: list[Whole]) -> dict[str, Any]:
        choices = []
        for index, text in enumerate(texts):
            assert text.last.finish_reason
            message = AssistantMessage(content=text.text)
            reason = text.last.finish_reason
            logprobs = self._logprobs(text.last)
            choices.append(ChatChoice(index=index, message=message, logprobs=logprobs, finish_reason=reason))
        usage = self._usage(sum(text.tokens for text in texts))
        found = ChatCompletion(id=self.id, created=self.created, model=self.model, choices=choices, usage=usage)
        return found.model_dump()

    async def events(self, pieces: AsyncIterator[tuple[int, Delta]]) -> AsyncIterator[bytes]:
        options, tokens = self.body.stream_options, 0
        for index in range(self.body.choices):
            yield self._chunk([_choice(index, {"role": "assistant", "content": ""})])
        async for index, delta in pieces:
            tokens += len(delta.token_ids)
            logprobs = self._logprobs(delta)
            choice = _choice(index, {"content": delta.text}, logprobs, delta.finish_reason)
            yield self._chunk([choice], tokens if options and options.continuous_usage_stats else None)
        if options and options.include_usage:
            yield self._chunk([], tokens)
        yield DONE

    def _chunk(self, choices: list[dict[str, Any]], tokens: int | None = None) -> bytes:
        body = {"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model}
        usage = {} if tokens is None else {"usage": self._usage(tokens).model_dump()}
        return event({**body, "choices": choices, **usage})

    def _logprobs(self, delta: Delta) -> ChatLogprobs | None:
        if not self.body.logprobs:
            return None
        return ChatLogprobs(content=[self._token(choice) for choice in delta.logprobs])

    def _token(self, choice: Choice) -> TokenLogprob:
        assert choice.logprob is not None
        top = [self._top(token_id, logprob) for token_id, logprob in choice.top]
        return TokenLogprob(**self._top(choice.token_id, choice.logprob).model_dump(), top_logprobs=top)

    def _top(self, token_id: int, logprob: float) -> TopLogprob:
        text = self.token_texts.text(token_id)
        whole_characters = "\ufffd" not in text
        return TopLogprob(token=text, logprob=logprob, bytes=list(text.encode()) if whole_characters else None)

    def _usage(self, new: int) -> Usage:
        return Usage(prompt_tokens=self.prompt_tokens, completion_tokens=new, total_tokens=self.prompt_tokens + new)


def _choice(
    index: int, delta: dict[str, str], logprobs: ChatLogprobs | None = None, reason: str | None = None
) -> dict[str, Any]:
    written = logprobs.model_dump() if logprobs else None
    return {"index": index, "delta": delta, "logprobs": written, "finish_reason": reason}
