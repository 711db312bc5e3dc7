"""`/tokenize` and `/detokenize`."""

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from sioconv.data.chat import encode
from sioconv.errors import UserError
from sioconv.serve.api.schema import DetokenizeRequest, TokenizeRequest
from sioconv.serve.errors import ApiError, of_user_error
from sioconv.serve.service import service_of
from sioconv.serve.wire import Json
from sioconv.serve.writing import tokens_of

router = APIRouter()


@router.post("/tokenize")
async def tokenize(body: TokenizeRequest, request: Request) -> Response:
    """The ids of a text as it stands, or of a conversation with its special tokens and the beginning of a reply."""
    service = service_of(request)
    service.client(request)
    served = service.model(body.model)
    if (body.text is None) == (body.messages is None):
        raise ApiError(400, "give one of text and messages", "text")
    if body.text is not None:
        ids = await tokens_of(served, body.text)
    else:
        try:
            ids, _ = await asyncio.to_thread(encode, served.tokenizer, body.messages or [], add_generation_prompt=True)
        except UserError as error:
            raise of_user_error(error, "messages") from error
    return Json({"model": served.name, "count": len(ids), "tokens": ids})


@router.post("/detokenize")
async def detokenize(body: DetokenizeRequest, request: Request) -> Response:
    """The text of ids; special tokens have none."""
    service = service_of(request)
    service.client(request)
    served = service.model(body.model)
    if any(not 0 <= token < served.model.config.vocab_size for token in body.tokens):
        raise ApiError(400, f"tokens: expected ids from 0 to {served.model.config.vocab_size - 1}", "tokens")
    text = b"".join(map(served.vocabulary.bytes_of, body.tokens)).decode("utf-8", "replace")
    return Json({"model": served.name, "text": text})
