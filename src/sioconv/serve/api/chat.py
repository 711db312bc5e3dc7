"""`/v1/chat/completions`."""

from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from sioconv.serve.api.replies import Asked, logprobs_of, usage_of
from sioconv.serve.api.schema import ChatRequest
from sioconv.serve.errors import ApiError, to_api_error
from sioconv.serve.prompts import chat_prompt, grammar_of, start_of, to_base64
from sioconv.serve.service import service_of
from sioconv.serve.wire import DONE, EventStream, Json, event, to_json, unless_gone
from sioconv.serve.writing import Piece, Writing

router = APIRouter()
TEXT = "\x00 the text of a piece \x00"  # stands for it where an event is prepared


@router.post("/v1/chat/completions")
async def create(body: ChatRequest, request: Request) -> Response:
    """Writes the next message of a conversation."""
    service = service_of(request)
    client, body = service.client(request), body.settled()
    served = service.model(body.model)
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true", "top_logprobs")
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options needs stream: true", "stream_options")
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise ApiError(400, "max_tokens and max_completion_tokens are both given: give one", "max_tokens")
    most = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    sampling = body.sampling(most, body.stop, service.config, served.model)
    start, stored = start_of(served, body.persona, body.state)
    prompt = await chat_prompt(served, body.messages, start, client.owner, stored and body.store, service.config)
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    grammar = await grammar_of(served, body.form(body.response_format), "response_format")
    writing = Writing(served, prompt, sampling, body.n, logprobs, grammar=grammar)
    asked = Asked(service, client, served, writing, "chatcmpl-")
    if body.stream:
        await asked.begin_for(request)
        return EventStream(_events(asked, body), asked.close)
    try:
        return Json(await unless_gone(request, _whole(asked, body)))
    finally:
        await asked.close()


async def _whole(asked: Asked, body: ChatRequest) -> dict[str, Any]:
    """The answer to a request that doesn't stream."""
    finishes: dict[int, str | None] = {}
    tokens: dict[int, list[dict[str, Any]]] = {branch: [] for branch in range(body.n)}
    async for piece in asked.pieces():
        finishes[piece.branch] = piece.finish
        tokens[piece.branch] += logprobs_of(asked.served, piece.tokens)
    choices = []
    for branch, reply in enumerate(asked.writing.replies):
        choice: dict[str, Any] = {
            "index": branch,
            "message": {"role": "assistant", "content": reply.text, "refusal": None},
            "logprobs": {"content": tokens[branch], "refusal": None} if body.logprobs else None,
            "finish_reason": finishes[branch],
        }
        choices.append(choice | await _state(asked, body, branch))
    return {
        **asked.head("chat.completion"),
        "choices": choices,
        "usage": usage_of(asked.writing),
        "sioconv": asked.extras(),
    }


async def _state(asked: Asked, body: ChatRequest, branch: int) -> dict[str, Any]:
    if not body.return_state:
        return {}
    return {"state": to_base64(asked.served.pack(await asked.writing.close(branch)))}


async def _events(asked: Asked, body: ChatRequest) -> AsyncGenerator[bytes, None]:
    """The events of a stream; an error that comes too late for a status is one of them."""
    head = asked.head("chat.completion.chunk")
    usage: dict[str, Any] = {"usage": None} if body.stream_options and body.stream_options.include_usage else {}

    def chunk(branch: int, delta: dict[str, Any], finish: str | None = None, /, **more: Any) -> bytes:
        choice = {"index": branch, "delta": delta, "logprobs": None, "finish_reason": finish, **more}
        return event({**head, "choices": [choice], **usage})

    # All events with text are alike but for the text: only that is encoded anew.
    frames = [chunk(branch, {"content": TEXT}).split(to_json(TEXT)) for branch in range(body.n)]

    def of(piece: Piece) -> bytes:
        if not piece.tokens:
            return to_json(piece.text).join(frames[piece.branch])
        logprobs = {"content": logprobs_of(asked.served, piece.tokens), "refusal": None}
        return chunk(piece.branch, {"content": piece.text}, logprobs=logprobs)

    try:
        for branch in range(body.n):
            yield chunk(branch, {"role": "assistant", "content": "", "refusal": None})
        async for piece in asked.pieces():
            if piece.text or piece.tokens:
                yield of(piece)
            if piece.finish is not None:
                yield chunk(piece.branch, {}, piece.finish, **await _state(asked, body, piece.branch))
        if usage:
            yield event({**head, "choices": [], "usage": usage_of(asked.writing), "sioconv": asked.extras()})
        yield DONE
    except Exception as error:
        yield event(to_api_error(error).body())
