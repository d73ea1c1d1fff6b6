"""``POST /v1/chat/completions``: OpenAI's."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from starlette.responses import Response

from slm_serve.backends.answer import Delta
from slm_serve.backends.protocol import Job
from slm_serve.http.chat_prompt import STOPS, chat_prompt
from slm_serve.http.exception_handlers import documented
from slm_serve.http.responses import Json, TheService, Whole, respond, seeded, usage
from slm_serve.http.schemas.openai_requests import ChatCompletion, ChatRequest
from slm_serve.http.streams import AS_EVENTS, DONE, event
from slm_serve.http.token_decoder import TokenTexts
from slm_serve.service import Service

if TYPE_CHECKING:
    from slm_kv import SampledToken as Choice

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
    """From pieces of texts to OpenAI's bodies, as plain objects."""

    body: ChatRequest
    token_texts: TokenTexts
    model: str
    prompt_tokens: int
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def completion(self, texts: list[Whole]) -> Json:
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": text.text},
                "logprobs": self._logprobs(text.last),
                "finish_reason": text.last.finish_reason,
            }
            for index, text in enumerate(texts)
        ]
        return self._body("chat.completion", choices, sum(text.tokens for text in texts))

    async def events(self, pieces: AsyncIterator[tuple[int, Delta]]) -> AsyncIterator[bytes]:
        options, tokens = self.body.stream_options, 0
        for index in range(self.body.choices):
            yield self._chunk([_choice(index, {"role": "assistant", "content": ""})])
        async for index, delta in pieces:
            tokens += len(delta.token_ids)
            choice = _choice(index, {"content": delta.text}, self._logprobs(delta), delta.finish_reason)
            yield self._chunk([choice], tokens if options and options.continuous_usage_stats else None)
        if options and options.include_usage:
            yield self._chunk([], tokens)
        yield DONE

    def _chunk(self, choices: list[Json], tokens: int | None = None) -> bytes:
        return event(self._body("chat.completion.chunk", choices, tokens))

    def _body(self, kind: str, choices: list[Json], tokens: int | None) -> Json:
        """``tokens``: new ones, for a body that tells the usage."""
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}
        return head if tokens is None else head | {"usage": usage(self.prompt_tokens, tokens)}

    def _logprobs(self, delta: Delta) -> Json | None:
        if not self.body.logprobs:
            return None
        return {"content": [self._token(choice) for choice in delta.logprobs]}

    def _token(self, choice: Choice) -> Json:
        assert choice.logprob is not None
        top = [self._top(token_id, logprob) for token_id, logprob in choice.top]
        return self._top(choice.token_id, choice.logprob) | {"top_logprobs": top}

    def _top(self, token_id: int, logprob: float) -> Json:
        text = self.token_texts.text(token_id)
        whole_characters = "\ufffd" not in text
        return {"token": text, "logprob": logprob, "bytes": list(text.encode()) if whole_characters else None}


def _choice(index: int, delta: Json, logprobs: Json | None = None, reason: str | None = None) -> Json:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
