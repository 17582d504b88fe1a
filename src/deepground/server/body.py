"""Reading a JSON request body: bounded in size and time, and strict."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from deepground.errors import RequestError
from deepground.server.wire import Wire

READ_SECONDS = 60.0
"""Longest that a client may take to send its body."""

MAX_DEPTH = 64
"""Objects and lists within each other."""

WireT = TypeVar("WireT", bound=Wire)


async def read_body(request: Request, model: type[WireT], *, max_bytes: int) -> WireT:
    """The request's body as a validated `model`.

    Raises:
        HTTPException: 408, 413 or 415.
        RequestError: the body is not JSON.
        pydantic.ValidationError: a field is wrong.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise HTTPException(415, "Content-Type must be application/json")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HTTPException(415, "Content-Encoding is not supported: send the body uncompressed")
    raw = await _read_bytes(request, max_bytes)
    try:
        parsed = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(f"The body is not valid JSON: {error}") from None
    if _is_too_deep(parsed):
        raise RequestError(f"The body has more than {MAX_DEPTH} objects or lists within each other")
    return model.model_validate(parsed)


def _is_too_deep(parsed: Any) -> bool:
    level = [parsed]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node if isinstance(node, list) else ())
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


async def _read_bytes(request: Request, max_bytes: int) -> bytes:
    too_large = HTTPException(413, f"The body is larger than {max_bytes} bytes, the limit of this server")
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > max_bytes:
        raise too_large
    chunks, size = [], 0
    try:
        async with asyncio.timeout(READ_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size > max_bytes:
                    raise too_large
                chunks.append(chunk)
    except TimeoutError:
        raise HTTPException(408, f"The body did not arrive within {READ_SECONDS:.0f} s") from None
    except ClientDisconnect:
        raise HTTPException(400, "The client left before its body had arrived") from None
    return b"".join(chunks)
