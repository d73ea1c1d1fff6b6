"""The log-probabilities of an answer, as OpenAI's objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slm_serve.backends.answer import Delta
from slm_serve.http.token_decoder import TokenDecoder

if TYPE_CHECKING:
    from slm_kv import SampledToken  # its module imports torch, which a type does not need

Json = dict[str, Any]


def logprobs_content(delta: Delta, decoder: TokenDecoder) -> list[Json]:
    """Return one object for each token of ``delta``, with its most likely alternatives."""
    return [_token(token, decoder) for token in delta.logprobs]


def _token(token: SampledToken, decoder: TokenDecoder) -> Json:
    assert token.logprob is not None
    top = [_logprob(token_id, logprob, decoder) for token_id, logprob in token.top]
    return _logprob(token.token_id, token.logprob, decoder) | {"top_logprobs": top}


def _logprob(token_id: int, logprob: float, decoder: TokenDecoder) -> Json:
    return {"token": decoder.text(token_id), "logprob": logprob, "bytes": list(decoder.bytes(token_id))}
