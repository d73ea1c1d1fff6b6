"""``POST /v1/responses``: OpenAI's newer endpoint for answers and function calls, without stored state."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import APIRouter, Request
from starlette.responses import Response

from slm_serve.backends.answer import Delta
from slm_serve.errors import RequestError
from slm_serve.http.chat.jobs import chat_jobs
from slm_serve.http.chat.logprobs import logprobs_content
from slm_serve.http.exception_handlers import error_responses
from slm_serve.http.request_body import add_ignored_fields, request_body
from slm_serve.http.responses import Deltas, GeneratedText, Json, respond, service_of
from slm_serve.http.responses_api.chat_request import chat_request
from slm_serve.http.responses_api.output_items import OutputItems
from slm_serve.http.schemas.responses import ResponseObject, ResponsesRequest
from slm_serve.http.streams import EVENT_STREAM_RESPONSE, encode_event
from slm_serve.http.token_decoder import TokenDecoder, token_decoder
from slm_serve.http.tools.streaming import TextAnswer, ToolAnswer

router = APIRouter(prefix="/v1")
STATUSES: dict[str | None, str] = {None: "in_progress", "stop": "completed", "length": "incomplete"}


@router.post(
    "/responses",
    response_model=ResponseObject,
    responses={200: EVENT_STREAM_RESPONSE, **error_responses(400, 404, 429, 500, 503, 504, openai=True)},
)
async def responses(body: Annotated[ResponsesRequest, request_body(ResponsesRequest)], request: Request) -> Response:
    """Answer a text or a conversation; with `stream`, as typed events. Nothing is stored."""
    service = service_of(request)
    chat, ignored = chat_request(body)
    add_ignored_fields(request, ignored)
    jobs, plan = await chat_jobs(chat, request, service)
    answer = ToolAnswer(plan) if plan else TextAnswer()
    decoder = token_decoder(service.backend.tokenizer)
    encoder = _ResponseEncoder(body, decoder, jobs[0].model, len(jobs[0].prompt_ids), answer)
    return await respond(
        request,
        service,
        jobs,
        stream=bool(body.stream),
        encode_events=encoder.events,
        build_body=encoder.whole,
    )


@dataclass
class _ResponseEncoder:
    """Encodes one text as a response."""

    body: ResponsesRequest
    token_decoder: TokenDecoder
    model: str
    prompt_tokens: int
    answer: TextAnswer
    id: str = field(default_factory=lambda: f"resp_{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    output: OutputItems = field(default_factory=OutputItems)

    def whole(self, texts: list[GeneratedText]) -> Json:
        """Return the finished response."""
        (text,) = texts
        list(self._add(text.last))
        return self._response(text.last.finish_reason, text.tokens)

    async def events(self, deltas: Deltas) -> AsyncIterator[bytes]:
        """Encode each delta as one or more events, between those that describe the whole response."""
        numbers, tokens, reason = itertools.count(), 0, None
        for kind in ("response.created", "response.in_progress"):
            yield _event({"type": kind, "response": self._response(None)}, next(numbers))
        try:
            async for _, delta in deltas:
                tokens, reason = tokens + len(delta.token_ids), delta.finish_reason
                for event in self._add(delta):
                    yield _event(event, next(numbers))
            body = self._response(reason, tokens)
        except RequestError as error:  # the status 200 was already sent
            body = self._response(None, tokens) | {"status": "failed", "error": _error(error)}
        yield _event({"type": f"response.{body['status']}", "response": body}, next(numbers))

    def _add(self, delta: Delta) -> Iterator[Json]:
        """Add a delta to the output; yield the events for it."""
        is_last = delta.finish_reason is not None
        logprobs = logprobs_content(delta, self.token_decoder) if self.body.wants_logprobs else []
        yield from self.output.add(self.answer.push(delta.text, is_last=is_last), logprobs)
        if is_last:
            yield from self.output.finish(STATUSES[delta.finish_reason])

    def _response(self, finish_reason: str | None, tokens: int | None = None) -> Json:
        """Return the response so far; with a finish reason it is complete."""
        body, status = self.body, STATUSES[finish_reason]
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "model": self.model,
            "output": self.output.items,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "text": {"format": (body.text and body.text.format) or {"type": "text"}},
            "tool_choice": body.tool_choice or "auto",
            "tools": body.tools or [],
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "truncation": body.truncation or "disabled",
            "usage": None if tokens is None else self._usage(tokens),
            "metadata": body.metadata or {},
        }

    def _usage(self, tokens: int) -> Json:
        return {
            "input_tokens": self.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.prompt_tokens + tokens,
        }


def _event(event: Json, number: int) -> bytes:
    return b"event: " + event["type"].encode() + b"\n" + encode_event(event | {"sequence_number": number})


def _error(error: RequestError) -> Json:
    return {"code": error.code or "server_error", "message": error.message}
