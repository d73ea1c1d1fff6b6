"""``POST /tokenize`` and ``POST /detokenize``."""

from __future__ import annotations

from fastapi import APIRouter

from slm_serve.errors import ServeError
from slm_serve.http.exception_handlers import documented
from slm_serve.http.responses import TheService
from slm_serve.http.schemas.tokens import DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse

router = APIRouter(responses=documented(404, 422, 503))


@router.post("/tokenize")
async def tokenize(body: TokenizeRequest, service: TheService) -> TokenizeResponse:
    """The token ids of a text."""
    backend = service.backend
    service.model(body.model)
    ids = list(await service.tokens(body.prompt, body.add_special_tokens))
    strings = [str(token) for token in backend.tokenizer.convert_ids_to_tokens(ids)] if body.return_token_strs else None
    return TokenizeResponse(count=len(ids), max_model_len=backend.positions, tokens=ids, token_strs=strings)


@router.post("/detokenize")
async def detokenize(body: DetokenizeRequest, service: TheService) -> DetokenizeResponse:
    """The text of token ids."""
    tokenizer = service.backend.tokenizer
    service.model(body.model)
    if strange := [token for token in body.tokens if token >= len(tokenizer)]:
        raise ServeError(422, f"token id {strange[0]} is outside the vocabulary of {len(tokenizer)}", param="tokens")
    return DetokenizeResponse(prompt=str(tokenizer.decode(body.tokens)))
