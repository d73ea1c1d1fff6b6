"""``POST /v1/chat/completions``: OpenAI's endpoint for chats."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import APIRouter, Request
from starlette.responses import Response

from slm_serve.backends.answer import Delta
from slm_serve.http.chat.jobs import chat_jobs
from slm_serve.http.chat.logprobs import logprobs_content
from slm_serve.http.exception_handlers import error_responses
from slm_serve.http.request_body import request_body
from slm_serve.http.responses import (
    Deltas,
    GeneratedText,
    Json,
    respond,
    service_of,
    usage_body,
)
from slm_serve.http.schemas.chat import ChatCompletion, ChatRequest
from slm_serve.http.streams import DONE_EVENT, EVENT_STREAM_RESPONSE, encode_event
from slm_serve.http.token_decoder import TokenDecoder, token_decoder
from slm_serve.http.tools.plan import ToolPlan
from slm_serve.http.tools.streaming import TextAnswer, ToolAnswer

router = APIRouter(prefix="/v1")


@router.post(
    "/chat/completions",
    response_model=ChatCompletion,
    responses={200: EVENT_STREAM_RESPONSE, **error_responses(400, 404, 429, 500, 503, 504, openai=True)},
)
async def chat(body: Annotated[ChatRequest, request_body(ChatRequest)], request: Request) -> Response:
    """Answer the last message, using the model's chat template or a plain format if there is none."""
    service = service_of(request)
    jobs, plan = await chat_jobs(body, request, service)
    prompt_tokens = len(jobs[0].prompt_ids)
    encoder = _ChatEncoder(body, token_decoder(service.backend.tokenizer), jobs[0].model, prompt_tokens, plan)
    return await respond(
        request,
        service,
        jobs,
        stream=bool(body.stream),
        encode_events=encoder.events,
        build_body=encoder.completion,
    )


@dataclass
class _ChatEncoder:
    """Encodes texts as OpenAI's bodies, which are plain dicts, as in the completions endpoint."""

    body: ChatRequest
    token_decoder: TokenDecoder
    model: str
    prompt_tokens: int
    plan: ToolPlan | None = None
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def completion(self, texts: list[GeneratedText]) -> Json:
        """Return the body with all finished answers."""
        choices = [self._whole_choice(index, text) for index, text in enumerate(texts)]
        return self._response_body("chat.completion", choices, sum(text.tokens for text in texts))

    def _whole_choice(self, index: int, text: GeneratedText) -> Json:
        answer = self._answer()
        return {
            "index": index,
            "message": answer.message(text.text),
            "logprobs": self._logprobs(text.last),
            "finish_reason": answer.finish_reason(text.last.finish_reason),
        }

    def _answer(self) -> TextAnswer:
        return ToolAnswer(self.plan) if self.plan else TextAnswer()

    async def events(self, deltas: Deltas) -> AsyncIterator[bytes]:
        """Encode each delta as an event, after one with the role for each choice."""
        options, tokens = self.body.stream_options, 0
        answers = [self._answer() for _ in range(self.body.choices)]
        for index in range(self.body.choices):
            yield self._chunk([_choice(index, {"role": "assistant", "content": ""})])
        async for index, delta in deltas:
            tokens += len(delta.token_ids)
            answer = answers[index]
            added = answer.push(delta.text, is_last=delta.finish_reason is not None)
            choice = _choice(index, added, self._logprobs(delta), answer.finish_reason(delta.finish_reason))
            yield self._chunk([choice], tokens if options and options.continuous_usage_stats else None)
        if options and options.include_usage:
            yield self._chunk([], tokens)
        yield DONE_EVENT

    def _chunk(self, choices: list[Json], tokens: int | None = None) -> bytes:
        return encode_event(self._response_body("chat.completion.chunk", choices, tokens))

    def _response_body(self, kind: str, choices: list[Json], tokens: int | None) -> Json:
        """Return a body with ``choices``; with the number of new ``tokens`` also the usage."""
        body = {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}
        return body if tokens is None else body | {"usage": usage_body(self.prompt_tokens, tokens)}

    def _logprobs(self, delta: Delta) -> Json | None:
        return {"content": logprobs_content(delta, self.token_decoder)} if self.body.logprobs else None


def _choice(index: int, delta: Json, logprobs: Json | None = None, finish_reason: str | None = None) -> Json:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
