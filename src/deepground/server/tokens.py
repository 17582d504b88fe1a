"""Helpers about tokens: `/tokenize`, `/detokenize`; and the plain word that there are no embeddings."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field, model_validator
from starlette.exceptions import HTTPException

from deepground.engine import ChatRequest
from deepground.server.body import read_body
from deepground.server.chat.schema import ChatMessage, FunctionTool
from deepground.server.chat.translate import to_messages, to_tools
from deepground.server.context import ServerContext
from deepground.server.models import check_model, thinks_by_default
from deepground.server.openapi import describe_body
from deepground.server.wire import MAX_MESSAGES, MAX_TOOLS, TokenId, Wire, conflict

EMBEDDING_PATHS = ("/v1/embeddings", "/embeddings")


class TokenizeRequest(Wire):
    """The body of `POST /tokenize`: a text, or a conversation as the model would be shown it."""

    model: str | None = None
    prompt: str | None = None
    add_special_tokens: bool | None = None
    """Begin with the beginning-of-text token, where the model has one. Only with `prompt`; default: true."""
    messages: list[ChatMessage] | None = Field(default=None, min_length=1, max_length=MAX_MESSAGES)
    tools: list[FunctionTool] | None = Field(default=None, min_length=1, max_length=MAX_TOOLS)
    """Only with `messages`."""

    @model_validator(mode="after")
    def _fields_agree(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise conflict("prompt", "or messages is required, one of the two")
        if self.messages is None and self.tools is not None:
            raise conflict("tools", "go with messages only")
        if self.prompt is None and self.add_special_tokens is not None:
            raise conflict("add_special_tokens", "goes with prompt only")
        return self


class DetokenizeRequest(Wire):
    """The body of `POST /detokenize`."""

    model: str | None = None
    tokens: Annotated[list[TokenId], Field(max_length=2**20)]


def install_tokens(app: FastAPI, context: ServerContext) -> None:
    """Add the routes."""

    @app.post("/tokenize", openapi_extra=describe_body(TokenizeRequest))
    async def tokenize(request: Request) -> Response:
        """The token ids of a text or a conversation."""
        body = await read_body(request, TokenizeRequest, max_bytes=context.max_body_bytes)
        if body.model is not None:
            check_model(body.model, context.model)
        ids = await asyncio.to_thread(_token_ids, body, context)
        return JSONResponse({"count": len(ids), "max_model_len": context.model.context_length, "tokens": ids})

    @app.post("/detokenize", openapi_extra=describe_body(DetokenizeRequest))
    async def detokenize(request: Request) -> Response:
        """The text of token ids."""
        body = await read_body(request, DetokenizeRequest, max_bytes=context.max_body_bytes)
        if body.model is not None:
            check_model(body.model, context.model)
        return JSONResponse({"prompt": await asyncio.to_thread(context.service.decode, body.tokens)})

    async def embeddings() -> Response:
        """Refused: a model that writes text has no embeddings to give."""
        raise HTTPException(404, "There are no embeddings here: this server runs a model that writes text")

    for path in EMBEDDING_PATHS:
        app.post(path, include_in_schema=False)(embeddings)


def _token_ids(body: TokenizeRequest, context: ServerContext) -> list[int]:
    if body.prompt is not None:
        return context.service.encode(body.prompt, add_bos=body.add_special_tokens is not False)
    tools = to_tools(body.tools or ())
    return context.service.prompt_ids(
        ChatRequest(
            messages=to_messages(body.messages or ()),
            tools=tools,
            tool_choice="auto" if tools else "none",
            thinking=thinks_by_default(body.model or context.model.name, context.model),
        )
    )
