"""``POST /tokenize``, ``POST /detokenize`` and ``GET /tokenizer_info``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter

from slm_serve.errors import RequestError
from slm_serve.http.exception_handlers import error_responses
from slm_serve.http.request_body import request_body
from slm_serve.http.responses import ServiceDependency
from slm_serve.http.schemas.tokens import (
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizeRequest,
    TokenizeResponse,
    TokenizerInfo,
)

router = APIRouter(responses=error_responses(404, 422, 503))


@router.post("/tokenize")
async def tokenize(
    body: Annotated[TokenizeRequest, request_body(TokenizeRequest)], service: ServiceDependency
) -> TokenizeResponse:
    """Return the token ids of a text."""
    backend = service.backend
    model = service.served_model(body.model).name
    ids = list(await service.tokenize(body.prompt, model, body.add_special_tokens))
    strings = [str(token) for token in backend.tokenizer.convert_ids_to_tokens(ids)] if body.return_token_strs else None
    return TokenizeResponse(count=len(ids), max_model_len=backend.context_length, tokens=ids, token_strs=strings)


@router.post("/detokenize")
async def detokenize(
    body: Annotated[DetokenizeRequest, request_body(DetokenizeRequest)], service: ServiceDependency
) -> DetokenizeResponse:
    """Return the text of token ids."""
    tokenizer = service.backend.tokenizer
    service.served_model(body.model)  # 404 for an unknown name
    if unknown := [token for token in body.tokens if token >= len(tokenizer)]:
        raise RequestError(422, f"token id {unknown[0]} is outside the vocabulary of {len(tokenizer)}", param="tokens")
    return DetokenizeResponse(prompt=str(tokenizer.decode(body.tokens)))


@router.get("/tokenizer_info")
async def tokenizer_info(service: ServiceDependency, model: str | None = None) -> TokenizerInfo:
    """Describe the tokenizer of a model, so that clients can count tokens and render chats as the server does."""
    tokenizer = service.backend.tokenizers[service.served_model(model).name]
    template = tokenizer.chat_template
    return TokenizerInfo(
        tokenizer_class=type(tokenizer).__name__,
        vocab_size=len(tokenizer),
        model_max_length=service.backend.context_length,
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
        unk_token=tokenizer.unk_token,
        chat_template=template if isinstance(template, str) else None,
    )
