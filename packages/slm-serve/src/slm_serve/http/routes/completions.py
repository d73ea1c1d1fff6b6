"""``POST /v1/completions``: OpenAI's, for any number of prompts, each continued ``n`` times."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from starlette.responses import Response

from slm_serve.backends.answer import Delta
from slm_serve.backends.protocol import Job
from slm_serve.http.exception_handlers import documented
from slm_serve.http.responses import Json, TheService, Whole, respond, seeded, usage
from slm_serve.http.schemas.openai_requests import Completion, CompletionRequest
from slm_serve.http.streams import AS_EVENTS, DONE, event
from slm_serve.http.token_decoder import TokenTexts
from slm_serve.service import Service

if TYPE_CHECKING:
    from slm_kv import SampledToken as Choice

router = APIRouter(prefix="/v1")
DEFAULT_TOKENS = 16  # OpenAI's


@router.post(
    "/completions",
    response_model=Completion,
    responses={200: AS_EVENTS, **documented(400, 404, 429, 500, 503, 504, openai=True)},
)
async def completions(body: CompletionRequest, request: Request, service: TheService) -> Response:
    """Continue prompts, given as texts or as token ids."""
    model = service.model(body.model).name
    prompts = [await _prompt(body, service, given) for given in body.texts]
    jobs = [job for prompt in prompts for job in _jobs(body, prompt, model)]
    writer = _Writer(body, TokenTexts(service.backend.tokenizer), model, prompts)
    return await respond(request, service, jobs, stream=bool(body.stream), events=writer.events, body=writer.completion)


@dataclass(frozen=True)
class _Prompt:
    ids: tuple[int, ...]
    text: str  # for echo


async def _prompt(body: CompletionRequest, service: Service, given: str | list[int]) -> _Prompt:
    if isinstance(given, str):
        return _Prompt(await service.tokens(given, body.add_special_tokens is not False), given)
    text = service.backend.tokenizer.decode(given, skip_special_tokens=True) if body.echo else ""
    return _Prompt(tuple(given), str(text))


def _jobs(body: CompletionRequest, prompt: _Prompt, model: str) -> list[Job]:
    """A job for each text that one prompt is to have; of a seed, each has its own."""
    prompt_logprobs = body.logprobs if body.echo else None
    new = DEFAULT_TOKENS if body.max_tokens is None else max(body.max_tokens, 1)
    return [
        Job(prompt.ids, body.sampling(new, body.logprobs, prompt_logprobs, **seeded(body.seed, index)), model)
        for index in range(body.choices)
    ]


@dataclass
class _Text:
    """What was written of one choice so far."""

    offset: int = 0  # characters, those of an echoed prompt included
    tokens: int = 0
    begun: bool = False


@dataclass
class _Writer:
    """From pieces of texts to OpenAI's bodies, as plain objects: one is made for each token of a stream."""

    body: CompletionRequest
    token_texts: TokenTexts
    model: str
    prompts: list[_Prompt]
    id: str = field(default_factory=lambda: f"cmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def completion(self, texts: list[Whole]) -> Json:
        choices = [self._choice(index, _Text(), text.last) for index, text in enumerate(texts)]
        tokens = 0 if self.body.max_tokens == 0 else sum(text.tokens for text in texts)
        return self._body(choices) | {"usage": self._usage(tokens)}

    async def events(self, pieces: AsyncIterator[tuple[int, Delta]]) -> AsyncIterator[bytes]:
        options = self.body.stream_options
        texts = [_Text() for _ in range(len(self.prompts) * self.body.choices)]
        async for index, delta in pieces:
            written = self._body([self._choice(index, texts[index], delta)])
            if options and options.continuous_usage_stats:
                written["usage"] = self._usage(sum(text.tokens for text in texts))
            yield event(written)
        if options and options.include_usage:
            yield event(self._body([]) | {"usage": self._usage(sum(text.tokens for text in texts))})
        yield DONE

    def _choice(self, index: int, so_far: _Text, delta: Delta) -> Json:
        """One piece as a choice; the first brings the echoed prompt."""
        text, logprobs = delta.text, None
        if self.body.logprobs is not None:
            logprobs = self._logprobs(index, so_far, delta)
        if self.body.echo and not so_far.begun:
            prompt = self.prompts[index // self.body.choices].text
            text = prompt if self.body.max_tokens == 0 else prompt + text
        so_far.begun = True
        if self.body.max_tokens != 0:
            so_far.tokens += len(delta.token_ids)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": delta.finish_reason}

    def _logprobs(self, index: int, so_far: _Text, delta: Delta) -> Json:
        found = _Logprobs(self.token_texts, so_far)
        if self.body.echo and not so_far.begun:
            found.add_unpredicted(self.prompts[index // self.body.choices].ids[0])
            found.add(delta.prompt_logprobs)
        if self.body.max_tokens != 0:
            found.add(delta.logprobs)
        return found.written

    def _body(self, choices: list[Json]) -> Json:
        head = {"id": self.id, "object": "text_completion", "created": self.created, "model": self.model}
        return {**head, "choices": choices}

    def _usage(self, new: int) -> Json:
        return usage(sum(len(prompt.ids) for prompt in self.prompts), new)


class _Logprobs:
    """Collects the tokens of one choice; ``so_far`` knows where its text has got to."""

    def __init__(self, token_texts: TokenTexts, so_far: _Text) -> None:
        self._texts, self._so_far = token_texts, so_far
        self.written: Json = {"text_offset": [], "token_logprobs": [], "tokens": [], "top_logprobs": []}

    def add_unpredicted(self, token_id: int) -> None:
        """The first token of a prompt."""
        self._add(token_id, self._texts.text(token_id), None, None)

    def add(self, choices: tuple[Choice, ...]) -> None:
        for choice in choices:
            text, logprob = self._texts.text(choice.token_id), choice.logprob
            assert logprob is not None
            top = {text: logprob}
            for token_id, other in choice.top:
                name = self._texts.text(token_id)
                top[name] = max(other, top.get(name, other))
            self._add(choice.token_id, text, logprob, top)

    def _add(self, token_id: int, text: str, logprob: float | None, top: dict[str, float] | None) -> None:
        self.written["tokens"].append(text)
        self.written["token_logprobs"].append(logprob)
        self.written["top_logprobs"].append(top)
        self.written["text_offset"].append(self._so_far.offset)
        self._so_far.offset += self._texts.length(token_id)
