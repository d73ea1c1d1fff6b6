"""``POST /tokenize``, ``POST /detokenize`` and ``GET /tokenizer_info``."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import orjson
from fastapi import APIRouter
from starlette.responses import Response

from slm_serve.errors import RequestError
from slm_serve.http.exception_handlers import error_responses
from slm_serve.http.prompts.encoding import encode_messages
from slm_serve.http.request_body import request_body
from slm_serve.http.responses import ServiceDependency
from slm_serve.http.schemas.tokens import (
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizeRequest,
    TokenizeResponse,
    TokenizerInfo,
)
from slm_serve.service import LONG_TEXT

router = APIRouter(responses=error_responses(404, 422, 503))


@router.post("/tokenize", response_model=TokenizeResponse)
async def tokenize(body: Annotated[TokenizeRequest, request_body(TokenizeRequest)], service: ServiceDependency) -> Any:
    """Return the token ids of a text, or of the prompt that the messages of a chat become."""
    backend = service.backend
    model = service.served_model(body.model).name
    if body.messages is not None:
        ids = await encode_messages(body.messages, service, model)
    else:
        ids = await service.tokenize(body.prompt or "", model, body.add_special_tokens)

    def encode() -> bytes:
        strings = backend.tokenizer.convert_ids_to_tokens(list(ids)) if body.return_token_strs else None
        fields = {"count": len(ids), "max_model_len": backend.context_length, "tokens": ids, "token_strs": strings}
        return orjson.dumps(fields)

    is_long = len(ids) > LONG_TEXT
    return _json_response(await asyncio.to_thread(encode) if is_long else encode())


@router.post("/detokenize", response_model=DetokenizeResponse)
async def detokenize(
    body: Annotated[DetokenizeRequest, request_body(DetokenizeRequest)], service: ServiceDependency
) -> Any:
    """Return the text of token ids."""
    tokenizer = service.backend.tokenizer
    service.served_model(body.model)  # 404 for an unknown name

    def decode() -> bytes:
        if unknown := [token for token in body.tokens if token >= len(tokenizer)]:
            reason = f"token id {unknown[0]} is outside the vocabulary of {len(tokenizer)}"
            raise RequestError(422, reason, param="tokens")
        return orjson.dumps({"prompt": str(tokenizer.decode(body.tokens))})

    is_long = len(body.tokens) > LONG_TEXT
    return _json_response(await asyncio.to_thread(decode) if is_long else decode())


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


def _json_response(body: bytes) -> Response:
    """Return a body that was encoded beforehand: FastAPI would check and encode a long one on the event loop."""
    return Response(body, media_type="application/json")
