"""Conversion of vLLM's outputs to deltas, with slm_kv's text decoding and stop strings. vLLM is not imported here."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from slm_kv import SampledToken, TextStream
from slm_serve.backends.answer import Delta, FinishReason, Timing
from slm_serve.backends.protocol import Job
from slm_serve.backends.vllm.sampling import stop_token_ids
from slm_serve.errors import ModelFailedError


def sampled_token(token: int, logprobs: Mapping[int, Any], top: int) -> SampledToken:
    """Convert vLLM's log-probabilities of one position: that of ``token`` and the ``top`` largest.

    Raises ModelFailedError for NaN.
    """
    values = {token_id: float(value.logprob) for token_id, value in logprobs.items()}
    if not math.isfinite(values[token]):
        raise ModelFailedError("the model returned NaN scores; check its weights, or try dtype float32")
    most_likely = sorted(values.items(), key=lambda pair: (-pair[1], pair[0]))[:top]
    return SampledToken(token, values[token], tuple(most_likely))


@dataclass
class TextPiece:
    """A piece of a text, which can be extended; it has a ``finish_reason`` if the text ends with it."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[SampledToken] = field(default_factory=list)
    prompt_logprobs: list[SampledToken] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def append(self, piece: TextPiece) -> None:
        """Append the next piece of the same text."""
        self.text += piece.text
        self.token_ids += piece.token_ids
        self.logprobs += piece.logprobs
        self.prompt_logprobs += piece.prompt_logprobs
        self.finish_reason = piece.finish_reason

    def to_delta(self, timing: Timing | None = None) -> Delta:
        """Return the piece as an immutable Delta."""
        lists = tuple(self.token_ids), tuple(self.logprobs), tuple(self.prompt_logprobs)
        return Delta(self.text, *lists, self.finish_reason, timing)


class OutputDecoder:
    """Converts the outputs of vLLM for one job into pieces of text, and ends the text at stop strings and tokens.

    After a piece with a ``finish_reason`` no more outputs may be passed in.
    """

    def __init__(self, job: Job, eos_token_ids: Collection[int], tokenizer: PreTrainedTokenizerBase) -> None:
        self._params, self._prompt_ids = job.params, job.prompt_ids
        self._stop_token_ids = stop_token_ids(job.params, eos_token_ids)
        self._text_stream = TextStream(tokenizer, job.params.stop, job.prompt_ids, job.params.visible_special_ids)
        self._tokens = 0

    def decode(self, output: Any) -> TextPiece:
        """Convert a RequestOutput, which contains only the new tokens.

        Raises ModelFailedError if vLLM ended the request for another reason than a stop or the length.
        """
        (completion,) = output.outputs
        piece = TextPiece(prompt_logprobs=self._prompt_logprobs(output.prompt_logprobs))
        logprobs: Sequence[Any] = completion.logprobs or [None] * len(completion.token_ids)
        for token, token_logprobs in zip(completion.token_ids, logprobs, strict=True):
            self._add_token(piece, token, token_logprobs)
            if piece.finish_reason:
                return piece
        if completion.finish_reason:
            piece.finish_reason = _finish_reason(completion.finish_reason)
            piece.text += self._text_stream.finish()
        return piece

    def finish(self) -> TextPiece:
        """End the text before vLLM does; return the part that was held back, with finish reason ``length``."""
        return TextPiece(self._text_stream.finish(), finish_reason="length")

    def _add_token(self, piece: TextPiece, token: int, logprobs: Mapping[int, Any] | None) -> None:
        params = self._params
        self._tokens += 1
        piece.token_ids.append(token)
        if params.logprobs is not None and logprobs is not None:
            piece.logprobs.append(sampled_token(token, logprobs, params.logprobs))
        if token in self._stop_token_ids:
            piece.finish_reason = "stop"
        else:
            piece.text += self._text_stream.push(token, may_stop=self._tokens > params.min_new_tokens)
            if self._text_stream.stopped:
                piece.finish_reason = "stop"
            elif self._tokens == params.max_new_tokens:
                piece.finish_reason = "length"
        if piece.finish_reason:
            piece.text += self._text_stream.finish()

    def _prompt_logprobs(self, logprobs: Sequence[Any] | None) -> list[SampledToken]:
        """Convert the log-probabilities of the prompt; its first token has none."""
        top = self._params.prompt_logprobs
        if top is None or not logprobs:
            return []
        pairs = zip(self._prompt_ids[1:], logprobs[1:], strict=True)
        return [sampled_token(token, token_logprobs, top) for token, token_logprobs in pairs]


def _finish_reason(reason: str) -> FinishReason:
    if reason == "stop":
        return "stop"
    if reason == "length":
        return "length"
    raise ModelFailedError(f"vLLM ended this request: {reason}")
