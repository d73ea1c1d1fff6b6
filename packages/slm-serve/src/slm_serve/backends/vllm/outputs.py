"""What is asked of vLLM, and what comes back, in slm_kv's terms. No vLLM here."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from slm_kv import KVError, SamplingParams, TextStream
from slm_kv import SampledToken as Choice
from slm_serve.backends.answer import Delta, Ending, Timing
from slm_serve.backends.protocol import Job
from slm_serve.errors import ModelFailed

HOTTEST = 2.0  # the highest temperature that vLLM takes


def sampling_arguments(params: SamplingParams, ends: Collection[int], vocabulary: int) -> dict[str, Any]:
    """Arguments for vLLM's SamplingParams.

    What ends a text is named as ``stop_token_ids`` and its own rule is off, so that it is what slm_kv takes. It gives
    token ids alone: texts and stop strings are slm_kv's. A temperature below 0.01 counts as 0.01 there, and min_p is
    applied before top_k and top_p.
    """
    stops = {*params.stop_token_ids, *(() if params.ignore_eos else ends)}
    return {
        "temperature": float(params.temperature),
        "top_k": min(params.top_k, vocabulary),
        "top_p": float(params.top_p),
        "min_p": float(params.min_p),
        "repetition_penalty": float(params.repetition_penalty),
        "presence_penalty": float(params.presence_penalty),
        "frequency_penalty": float(params.frequency_penalty),
        "seed": None if params.seed is None else params.seed % 2**63,
        "stop_token_ids": sorted(token for token in stops if 0 <= token < vocabulary),
        "ignore_eos": True,
        "max_tokens": params.max_new_tokens,
        "min_tokens": min(params.min_new_tokens, params.max_new_tokens),
        "logprobs": params.logprobs,
        "prompt_logprobs": params.prompt_logprobs,
        "detokenize": False,
    }


def check(job: Job, positions: int, vocabulary: int) -> None:
    """Raises KVError for what vLLM would refuse, or could not do."""
    prompt, new = len(job.prompt_ids), job.params.max_new_tokens
    if not job.use_cache:
        raise KVError("use_cache=False is not possible with vLLM, which always caches; ask the engine backend")
    if not prompt:
        raise KVError("the prompt is empty: give at least one token")
    for token in job.prompt_ids:
        if not isinstance(token, int) or not 0 <= token < vocabulary:
            raise KVError(f"token id {token!r} is outside the vocabulary of {vocabulary}")
    if prompt >= positions:
        raise KVError(f"the prompt has {prompt} tokens and there is room for {positions}, one of them new; shorten it")
    if prompt + new > positions:
        raise KVError(
            f"a prompt of {prompt} tokens and max_new_tokens={new} need {prompt + new} tokens of context and there are "
            f"{positions}; ask for fewer new tokens"
        )
    if job.params.temperature > HOTTEST:
        raise KVError(f"temperature={job.params.temperature} is above {HOTTEST:g}, the highest that vLLM takes")


def choice(token: int, row: Mapping[int, Any], top: int) -> Choice:
    """vLLM's log-probabilities at one place: the ``top`` likeliest, and ``token``'s. Raises ModelFailed for NaN."""
    values = {found: float(value.logprob) for found, value in row.items()}
    if not math.isfinite(values[token]):
        raise ModelFailed("the model gave no usable scores; its weights or its dtype are at fault: try float32")
    likeliest = sorted(values.items(), key=lambda pair: (-pair[1], pair[0]))[:top]
    return Choice(token, values[token], tuple(likeliest))


@dataclass
class Piece:
    """What was added to a text, and why it ends, if it does."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[Choice] = field(default_factory=list)
    prompt_logprobs: list[Choice] = field(default_factory=list)
    finish_reason: Ending | None = None

    def add(self, piece: Piece) -> None:
        """``piece`` follows."""
        self.text += piece.text
        self.token_ids += piece.token_ids
        self.logprobs += piece.logprobs
        self.prompt_logprobs += piece.prompt_logprobs
        self.finish_reason = piece.finish_reason

    def delta(self, timing: Timing | None = None) -> Delta:
        """As it goes to a client."""
        lists = tuple(self.token_ids), tuple(self.logprobs), tuple(self.prompt_logprobs)
        return Delta(self.text, *lists, self.finish_reason, timing)


class Continuation:
    """One text under way: vLLM's outputs in, pieces out. Once a piece has a finish_reason no more may follow."""

    def __init__(self, job: Job, ends: Collection[int], tokenizer: PreTrainedTokenizerBase) -> None:
        self._params, self._prompt_ids = job.params, job.prompt_ids
        self._stops = {*job.params.stop_token_ids, *(() if job.params.ignore_eos else ends)}
        self._stream = TextStream(tokenizer, job.params.stop, job.prompt_ids)
        self._tokens = 0

    def take(self, output: Any) -> Piece:
        """A vLLM RequestOutput, which holds what is new. Raises ModelFailed where it ends without an answer."""
        (new,) = output.outputs
        piece = Piece(prompt_logprobs=self._of_prompt(output.prompt_logprobs))
        rows: Sequence[Any] = new.logprobs or [None] * len(new.token_ids)
        for token, row in zip(new.token_ids, rows, strict=True):
            self._token(piece, token, row)
            if piece.finish_reason:
                return piece
        if new.finish_reason:
            piece.finish_reason = _ending(new.finish_reason)
            piece.text += self._stream.finish()
        return piece

    def _token(self, piece: Piece, token: int, row: Mapping[int, Any] | None) -> None:
        params = self._params
        self._tokens += 1
        piece.token_ids.append(token)
        if params.logprobs is not None and row is not None:
            piece.logprobs.append(choice(token, row, params.logprobs))
        if token in self._stops:
            piece.finish_reason = "stop"
        else:
            piece.text += self._stream.push(token, may_stop=self._tokens > params.min_new_tokens)
            if self._stream.stopped:
                piece.finish_reason = "stop"
            elif self._tokens == params.max_new_tokens:
                piece.finish_reason = "length"
        if piece.finish_reason:
            piece.text += self._stream.finish()

    def _of_prompt(self, rows: Sequence[Any] | None) -> list[Choice]:
        top = self._params.prompt_logprobs
        if top is None or not rows:
            return []
        return [choice(token, row, top) for token, row in zip(self._prompt_ids[1:], rows[1:], strict=True)]


def _ending(reason: str) -> Ending:
    if reason == "stop":
        return "stop"
    if reason == "length":
        return "length"
    raise ModelFailed(f"vLLM ended this request: {reason}")
