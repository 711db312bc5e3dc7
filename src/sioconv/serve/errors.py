"""Errors in the form of OpenAI's API: `{"error": {"message", "type", "param", "code"}}`."""

import logging
import re
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from sioconv.errors import UserError
from sioconv.serve.wire import ClientGoneError, Json

logger = logging.getLogger("sioconv.serve")
NAME = re.compile("(?!(?:str|int|float|bool)$)[a-z0-9_]+")  # a field or a place in a list
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that can't be answered.

    Args:
        status: HTTP's number.
        message: what is wrong, and what to do.
        param: the field that is at fault.
        code: a word for programs.
        headers: sent with it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """What the client gets."""
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The same as a response."""
        return Json(self.body(), self.status, self.headers)


def of_user_error(error: UserError, param: str | None = None) -> ApiError:
    """Something that the client gave isn't as it must be; its message often begins with the field's name."""
    message = str(error)
    first = message.split(" ", 1)[0]
    return ApiError(400, message, param or (first if "out of range" in message or first == "logit_bias" else None))


def of_validation(error: RequestValidationError) -> ApiError:
    """The first thing that is wrong with a body. What the client wrote isn't repeated."""
    # Of a field that may be of several types: what is wrong with the type that it has, or else the innermost place.
    problem = min(error.errors(), key=lambda each: (each["type"].endswith("_type"), -len(each["loc"])))
    *outer, last = [str(part) for part in problem["loc"] if part != "body"] or [""]
    kept = [part for part in outer if NAME.fullmatch(part)]
    if problem["type"] == "extra_forbidden" or NAME.fullmatch(last):  # else it is the name of one of the types
        kept.append(last)
    name = ".".join(kept) or None
    if problem["type"] == "extra_forbidden":
        return ApiError(400, f"the field {name} isn't supported: leave it out", name, "unsupported_parameter")
    if problem["type"] == "missing":
        return ApiError(400, f"the field {name} is missing" if name else "the body is missing", name, "missing")
    if problem["type"] == "json_invalid":
        return ApiError(400, "the body isn't JSON", None, "invalid_json")
    return ApiError(400, f"{name or 'the body'}: {problem['msg']}", name, "invalid_value")


def to_api_error(error: Exception) -> ApiError:
    """Any error as the client may see it."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UserError):
        return of_user_error(error)
    if isinstance(error, RequestValidationError):
        return of_validation(error)
    if isinstance(error, ClientGoneError):
        return ApiError(499, "the client has gone")
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, str(error.detail), headers=error.headers)
    # The message may hold text of the client: the type and the place are enough for the log.
    logger.error("a request failed inside the server: %s", type(error).__name__, exc_info=_without_text(error))
    return ApiError(500, "the server failed; its log says where", code="internal_error")


def _without_text(error: Exception) -> BaseException:
    return RuntimeError(type(error).__name__).with_traceback(error.__traceback__)


def install(app: FastAPI) -> None:
    """Makes an application answer every error in this form."""

    async def answer(_: Request, error: Exception) -> Response:
        return to_api_error(error).response()

    for kind in (ApiError, UserError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, answer)
