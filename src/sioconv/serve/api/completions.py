"""`/v1/completions`: texts that go on, without roles."""

import asyncio
import codecs
from collections.abc import AsyncGenerator
from itertools import accumulate
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from sioconv.serve.access.keys import Client
from sioconv.serve.api.replies import Asked, logprobs_of, usage_of
from sioconv.serve.api.schema import CompletionRequest
from sioconv.serve.errors import ApiError, to_api_error
from sioconv.serve.models import ServedModel, Start
from sioconv.serve.prompts import checked, grammar_of, scope_of, start_of, to_base64
from sioconv.serve.service import Service, service_of
from sioconv.serve.wire import DONE, EventStream, Json, event, unless_gone
from sioconv.serve.writing import Prompt, Token, Writing, tokens_of

router = APIRouter()
MOST_PROMPTS = 64


@router.post("/v1/completions")
async def create(body: CompletionRequest, request: Request) -> Response:
    """Continues texts."""
    service = service_of(request)
    client = service.client(request)
    served = service.model(body.model)
    prompts = _prompts(body)
    if body.stream and len(prompts) > 1:
        raise ApiError(400, "a stream takes one prompt", "prompt")
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options needs stream: true", "stream_options")
    if body.echo and body.logprobs is not None:
        raise ApiError(400, "logprobs of the prompt aren't supported: leave out echo or logprobs", "echo")
    start, stored = start_of(served, body.persona, body.state)
    asked = [await _asked(service, client, served, body, prompt, start, stored) for prompt in prompts]
    if body.stream:
        await asked[0].begin_for(request)
        return EventStream(_events(asked[0], body, _text(prompts[0], served)), asked[0].close)
    try:
        return Json(await unless_gone(request, _whole(asked, body, [_text(prompt, served) for prompt in prompts])))
    finally:
        for each in asked:
            await each.close()


def _prompts(body: CompletionRequest) -> list[str | list[int]]:
    given = body.prompt
    prompts: list[Any] = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else list(given)
    if not 1 <= len(prompts) <= MOST_PROMPTS:
        raise ApiError(400, f"there are {len(prompts)} prompts: give 1 to {MOST_PROMPTS}", "prompt")
    return prompts


def _text(prompt: str | list[int], served: ServedModel) -> str:
    if isinstance(prompt, str):
        return prompt
    return b"".join(map(served.vocabulary.bytes_of, prompt)).decode("utf-8", "replace")


async def _asked(
    service: Service,
    client: Client,
    served: ServedModel,
    body: CompletionRequest,
    text: str | list[int],
    start: Start,
    stored: bool,
) -> Asked:
    if isinstance(text, str):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ApiError(400, "the prompt has a lone surrogate: give UTF-8 text", "prompt") from error
        begun = start.state.tokens or start.pending
        ids = [*start.pending, *([] if begun else [served.vocabulary.bos]), *await tokens_of(served, text)]
    else:
        ids = [*start.pending, *text]
        if any(not 0 <= token < served.model.config.vocab_size for token in text):
            raise ApiError(400, f"prompt: expected ids from 0 to {served.model.config.vocab_size - 1}", "prompt")
    if not ids:
        raise ApiError(400, "the prompt is empty: give at least one token after a state", "prompt")
    history = frozenset(ids) - served.vocabulary.special
    prompt = Prompt(ids, start.state, scope_of(client.owner, start), history, stored)
    checked(prompt, service.config, "prompt")
    sampling = body.sampling("max_tokens", body.stop, service.config, served.model)
    grammar = await grammar_of(served, body.form(), "prompt")
    writing = Writing(served, prompt, sampling, body.n, body.logprobs, turns=False, grammar=grammar)
    return Asked(service, client, served, writing, "cmpl-")


async def _whole(all_asked: list[Asked], body: CompletionRequest, texts: list[str]) -> dict[str, Any]:
    """The answer to a request that doesn't stream; all prompts are written at once."""

    async def choices_of(asked: Asked, text: str) -> list[dict[str, Any]]:
        finishes: dict[int, str | None] = {}
        tokens: dict[int, list[Token]] = {branch: [] for branch in range(body.n)}
        async for piece in asked.pieces():
            finishes[piece.branch] = piece.finish
            tokens[piece.branch] += piece.tokens
        before = text if body.echo else ""
        return [
            _choice(asked, body, branch, before + reply.text, tokens[branch], finishes[branch])
            | await _state(asked, body, branch)
            for branch, reply in enumerate(asked.writing.replies)
        ]

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(choices_of(asked, text)) for asked, text in zip(all_asked, texts, strict=True)]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    choices = [choice for task in tasks for choice in task.result()]
    usages = [usage_of(asked.writing) for asked in all_asked]
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    cached = sum(usage["prompt_tokens_details"]["cached_tokens"] for usage in usages)
    return {
        **all_asked[0].head("text_completion"),
        "choices": [{**choice, "index": i} for i, choice in enumerate(choices)],
        "usage": {name: sum(usage[name] for usage in usages) for name in names}
        | {"prompt_tokens_details": {"cached_tokens": cached}},
        "sioconv": all_asked[0].extras(),
    }


def _choice(
    asked: Asked,
    body: CompletionRequest,
    branch: int,
    text: str,
    tokens: list[Token],
    finish: str | None,
    before: bytes = b"",
) -> dict[str, Any]:
    """A choice, or a piece of one: `before` is what the reply's earlier pieces were."""
    logprobs = None
    if body.logprobs is not None:
        content = logprobs_of(asked.served, tokens)
        parts = accumulate((bytes(each["bytes"]) for each in content), initial=before)
        logprobs = {
            "tokens": [each["token"] for each in content],
            "token_logprobs": [each["logprob"] for each in content],
            "top_logprobs": [{top["token"]: top["logprob"] for top in each["top_logprobs"]} for each in content],
            "text_offset": [_characters(part) for part, _ in zip(parts, content, strict=False)],
        }
    return {"index": branch, "text": text, "logprobs": logprobs, "finish_reason": finish}


def _characters(data: bytes) -> int:
    """How many characters are whole in some bytes."""
    return len(codecs.getincrementaldecoder("utf-8")("replace").decode(data))


async def _state(asked: Asked, body: CompletionRequest, branch: int) -> dict[str, Any]:
    if not body.return_state:
        return {}
    return {"state": to_base64(asked.served.pack(await asked.writing.close(branch)))}


async def _events(asked: Asked, body: CompletionRequest, text: str) -> AsyncGenerator[bytes, None]:
    head = asked.head("text_completion")
    usage: dict[str, Any] = {"usage": None} if body.stream_options and body.stream_options.include_usage else {}
    try:
        for branch in range(body.n if body.echo else 0):
            yield event({**head, "choices": [_choice(asked, body, branch, text, [], None)], **usage})
        before = [b""] * body.n
        async for piece in asked.pieces():
            more = await _state(asked, body, piece.branch) if piece.finish is not None else {}
            tokens, branch = list(piece.tokens), piece.branch
            choice = _choice(asked, body, branch, piece.text, tokens, piece.finish, before[branch]) | more
            before[branch] += b"".join(asked.served.vocabulary.bytes_of(token.id) for token in tokens)
            yield event({**head, "choices": [choice], **usage})
        if usage:
            yield event({**head, "choices": [], "usage": usage_of(asked.writing), "sioconv": asked.extras()})
        yield DONE
    except Exception as error:
        yield event(to_api_error(error).body())
