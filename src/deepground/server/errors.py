"""Errors on the wire, in DeepSeek's shape: `{"error": {"message", "type", "param", "code"}}`.

Under the paths of Anthropic's API they have that API's shape: `{"type": "error", "error": {"type", "message"}}`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException

from deepground.errors import (
    ChatFormatError,
    ContextLengthError,
    DeepgroundError,
    RequestAbortedError,
    RequestError,
)
from deepground.server.wire import NOT_SUPPORTED

logger = logging.getLogger("deepground.server")

_TYPES = {
    401: "authentication_error",
    402: "insufficient_balance_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable_error",
}
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
}
_ROLES = frozenset({"system", "user", "assistant", "tool"})
_SHOWN = 3
"""Validation errors told in one message."""


class Problem(NamedTuple):
    """An error ready for the wire."""

    status: int
    message: str
    param: str | None = None
    code: str = "invalid_request_error"

    def body(self) -> dict[str, Any]:
        """The JSON body."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def anthropic_body(self) -> dict[str, Any]:
        """The JSON body in Anthropic's shape."""
        kind = _ANTHROPIC_TYPES.get(self.status, "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": self.message}}

    def response(self, path: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
        """The HTTP response, in the shape of the API that `path` belongs to."""
        body = self.anthropic_body() if is_anthropic(path) else self.body()
        return JSONResponse(body, self.status, headers=dict(headers or {}))


def is_anthropic(path: str) -> bool:
    """Whether a path belongs to Anthropic's API."""
    return path.startswith(("/anthropic/", "/v1/messages"))


def problem_of(error: Exception) -> Problem:
    """What the client is told about an exception; what it did not cause is logged, not told."""
    match error:
        case ValidationError():
            return _validation_problem(error.errors(include_url=False, include_input=False))
        case RequestError():
            code = "context_length_exceeded" if isinstance(error, ContextLengthError) else "invalid_request_error"
            # The engine's prompt is the wire's messages.
            return Problem(400, str(error), "messages" if error.field == "prompt" else error.field, code)
        case ChatFormatError():
            return Problem(400, str(error), "messages")
        case HTTPException():
            return Problem(error.status_code, error.detail, code=_http_code(error.status_code))
        case RequestAbortedError():
            return Problem(503, f"The request was ended by the server: {error}", code="aborted")
        case DeepgroundError():
            logger.error("request failed: %s", error)
            return Problem(500, f"The engine failed: {error}", code="engine_error")
        case _:
            logger.error("request failed", exc_info=error)
            return Problem(500, "The server failed; its log says why.", code="internal_error")


def _http_code(status: int) -> str:
    names = {
        401: "invalid_api_key",
        402: "insufficient_balance",
        403: "not_allowed",
        404: "not_found",
        405: "method_not_allowed",
        408: "request_timeout",
        409: "conflict",
        413: "request_too_large",
        415: "unsupported_media_type",
        429: "rate_limit_exceeded",
        503: "overloaded",
    }
    return names.get(status, "invalid_request_error")


def _validation_problem(errors: Sequence[ErrorDetails]) -> Problem:
    paths = [_path(error) for error in errors]
    sentences = [_sentence(path, error) for path, error in zip(paths[:_SHOWN], errors, strict=False)]
    more = f" (and {len(errors) - _SHOWN} more)" if len(errors) > _SHOWN else ""
    code = "unsupported_field" if errors[0]["type"] == NOT_SUPPORTED else "invalid_request_error"
    return Problem(400, "; ".join(sentences) + more, paths[0] or None, code)


def _path(error: ErrorDetails) -> str:
    """`messages[2].content`: the location as a client would write it."""
    # Pydantic names members of unions in between, by the tags that the schema gives them.
    steps = [step for step in error["loc"] if not (isinstance(step, str) and step.startswith("<"))]
    if len(steps) > 2 and steps[0] == "messages" and steps[2] in _ROLES:
        del steps[2]
    if error["type"].startswith("union_tag"):
        steps.append(_discriminator(error))
    if field := error.get("ctx", {}).get("field"):
        steps.append(field)
    path = ""
    for step in steps:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
    return path


def _discriminator(error: ErrorDetails) -> str:
    return "role" if "'role'" in str(error.get("ctx", {}).get("discriminator", "")) else "type"


def _tags(error: ErrorDetails) -> str:
    return str(error.get("ctx", {}).get("expected_tags", "")).translate(str.maketrans("", "", "<>'"))


def _sentence(path: str, error: ErrorDetails) -> str:
    match error["type"]:
        case "extra_forbidden":
            return f"{path} is not a known field"
        case "missing":
            return f"{path} is required"
        case "union_tag_not_found" if "expected_tags" not in error.get("ctx", {}):
            return f"{path} is required"
        case "union_tag_invalid":
            return f"{path} must be one of {_tags(error)}"
        case "model_type" | "model_attributes_type" if not path:
            return "The body must be a JSON object"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{path} must be an object"
    message = error["msg"]
    if "ctx" in error and "field" in error["ctx"]:
        return f"{path} {message}"
    message = message.removeprefix("Input should ")
    return f"{path} should {message}" if message != error["msg"] else f"{path}: {message}"


def install_error_handlers(app: FastAPI) -> None:
    """Every error of the app leaves in DeepSeek's shape."""

    def handle(request: Request, error: Exception) -> JSONResponse:
        problem = problem_of(error)
        if problem.message == "Not Found":
            problem = problem._replace(message=f"There is no {request.url.path!r} here")
        if problem.message == "Method Not Allowed":
            problem = problem._replace(message=f"{request.method} is not possible on {request.url.path!r}")
        return problem.response(request.url.path, error.headers if isinstance(error, HTTPException) else None)

    for kind in (HTTPException, ValidationError, DeepgroundError):
        app.add_exception_handler(kind, handle)
    app.add_exception_handler(Exception, handle)
