"""``POST /v1/completions``: OpenAI's endpoint for one or several prompts, each continued ``n`` times."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Request
from starlette.responses import Response

from slm_serve.backends.answer import Delta
from slm_serve.backends.protocol import Job
from slm_serve.http.exception_handlers import error_responses
from slm_serve.http.prompts.encoding import EncodedPrompt, encode_prompts
from slm_serve.http.prompts.limits import PromptLimits
from slm_serve.http.request_body import request_body
from slm_serve.http.responses import (
    Deltas,
    GeneratedText,
    Json,
    respond,
    seed_argument,
    service_of,
    usage_body,
)
from slm_serve.http.schemas.completions import Completion, CompletionRequest
from slm_serve.http.streams import DONE_EVENT, EVENT_STREAM_RESPONSE, encode_event
from slm_serve.http.structured_output import output_grammar
from slm_serve.http.token_decoder import TextOffsets, TokenDecoder, token_decoder

if TYPE_CHECKING:
    from slm_kv import Grammar, SampledToken  # its module imports torch, which a type does not need

router = APIRouter(prefix="/v1")
DEFAULT_MAX_TOKENS = 16  # OpenAI's default


@router.post(
    "/completions",
    response_model=Completion,
    responses={200: EVENT_STREAM_RESPONSE, **error_responses(400, 404, 429, 500, 503, 504, openai=True)},
)
async def completions(
    body: Annotated[CompletionRequest, request_body(CompletionRequest)], request: Request
) -> Response:
    """Continue prompts, given as texts or as token ids."""
    service = service_of(request)
    model = service.served_model(body.model).name
    prompts = await encode_prompts(request, body, service, model)
    limits = PromptLimits.of(service)
    grammar = await output_grammar(body, service)
    jobs = [job for prompt in prompts for job in _jobs(body, prompt, model, limits, grammar)]
    encoder = _CompletionEncoder(body, token_decoder(service.backend.tokenizer), model, prompts)
    return await respond(
        request,
        service,
        jobs,
        stream=bool(body.stream),
        encode_events=encoder.events,
        build_body=encoder.completion,
    )


def _jobs(
    body: CompletionRequest, prompt: EncodedPrompt, model: str, limits: PromptLimits, grammar: Grammar | None
) -> list[Job]:
    """Return the ``n`` jobs of one prompt; the seed of each is one above that of the previous one."""
    prompt_logprobs = body.logprobs if body.echo else None
    # The engine generates at least one token; with max_tokens=0 the response leaves it out.
    requested = DEFAULT_MAX_TOKENS if body.max_tokens is None else max(body.max_tokens, 1)
    max_tokens = limits.new_tokens(requested, len(prompt.ids))
    params = [
        body.sampling_params(
            max_tokens, body.logprobs, prompt_logprobs, grammar=grammar, **seed_argument(body.seed, index)
        )
        for index in range(body.choices)
    ]
    return [Job(prompt.ids, each, model, open_ended=body.max_tokens is None) for each in params]


@dataclass
class _ChoiceState:
    """How much of one choice has been encoded."""

    offsets: TextOffsets
    tokens: int = 0
    started: bool = False


@dataclass
class _CompletionEncoder:
    """Encodes texts as OpenAI's bodies.

    The bodies are plain dicts: two pydantic models per token took 7 to 9 % of the event loop's time each.
    """

    body: CompletionRequest
    token_decoder: TokenDecoder
    model: str
    prompts: list[EncodedPrompt]
    id: str = field(default_factory=lambda: f"cmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def completion(self, texts: list[GeneratedText]) -> Json:
        """Return the body with all finished texts."""
        choices = [self._choice(index, self._start(index), text.last) for index, text in enumerate(texts)]
        tokens = 0 if self.body.max_tokens == 0 else sum(text.tokens for text in texts)
        return self._response_body(choices) | {"usage": self._usage(tokens)}

    async def events(self, deltas: Deltas) -> AsyncIterator[bytes]:
        """Encode each delta as an event."""
        options = self.body.stream_options
        states = [self._start(index) for index in range(len(self.prompts) * self.body.choices)]
        async for index, delta in deltas:
            chunk = self._response_body([self._choice(index, states[index], delta)])
            if options and options.continuous_usage_stats:
                chunk["usage"] = self._usage(sum(state.tokens for state in states))
            yield encode_event(chunk)
        if options and options.include_usage:
            yield encode_event(self._response_body([]) | {"usage": self._usage(sum(state.tokens for state in states))})
        yield DONE_EVENT

    def _choice(self, index: int, state: _ChoiceState, delta: Delta) -> Json:
        """Encode a delta of one choice; the first contains the echoed prompt."""
        text, logprobs = delta.text, None
        if self.body.logprobs is not None:
            logprobs = self._logprobs(index, state, delta)
        if self.body.echo and not state.started:
            prompt = self._prompt(index).text
            text = prompt if self.body.max_tokens == 0 else prompt + text
        state.started = True
        if self.body.max_tokens != 0:
            state.tokens += len(delta.token_ids)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": delta.finish_reason}

    def _logprobs(self, index: int, state: _ChoiceState, delta: Delta) -> Json:
        encoder = _LogprobsEncoder(self.token_decoder)
        if self.body.echo and not state.started:
            prompt = self._prompt(index)
            encoder.add_first_prompt_token(prompt.ids[0], prompt.offsets[0])
            encoder.add(delta.prompt_logprobs, prompt.offsets[1:])
        if self.body.max_tokens != 0:
            encoder.add(delta.logprobs, [state.offsets.add(token.token_id) for token in delta.logprobs])
        return encoder.body

    def _start(self, index: int) -> _ChoiceState:
        """Return the state at the beginning of a choice: the generated text follows the prompt if it is echoed."""
        prompt = self._prompt(index)
        offsets = TextOffsets(self.token_decoder, len(prompt.text) if self.body.echo else 0)
        if self.body.logprobs is not None:
            offsets.begin_after(prompt.ids)
        return _ChoiceState(offsets)

    def _prompt(self, index: int) -> EncodedPrompt:
        return self.prompts[index // self.body.choices]

    def _response_body(self, choices: list[Json]) -> Json:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    def _usage(self, completion_tokens: int) -> Json:
        return usage_body(sum(len(prompt.ids) for prompt in self.prompts), completion_tokens)


class _LogprobsEncoder:
    """Collects the log-probabilities of one choice in ``body``."""

    def __init__(self, token_decoder: TokenDecoder) -> None:
        self._decoder = token_decoder
        self.body: Json = {"text_offset": [], "token_logprobs": [], "tokens": [], "top_logprobs": []}

    def add_first_prompt_token(self, token_id: int, offset: int) -> None:
        """Add a token without log-probability: nothing precedes it."""
        self._append(offset, self._decoder.text(token_id), None, None)

    def add(self, tokens: Sequence[SampledToken], offsets: Sequence[int]) -> None:
        """Add tokens with their log-probabilities and where they begin in the text."""
        for token, offset in zip(tokens, offsets, strict=True):
            text, logprob = self._decoder.text(token.token_id), token.logprob
            assert logprob is not None
            # Several tokens can have the same text (parts of characters); the largest log-probability is kept.
            top = {text: logprob}
            for other_id, other_logprob in token.top:
                other_text = self._decoder.text(other_id)
                top[other_text] = max(other_logprob, top.get(other_text, other_logprob))
            self._append(offset, text, logprob, top)

    def _append(self, offset: int, text: str, logprob: float | None, top: dict[str, float] | None) -> None:
        self.body["tokens"].append(text)
        self.body["token_logprobs"].append(logprob)
        self.body["top_logprobs"].append(top)
        self.body["text_offset"].append(offset)
