"""`POST /anthropic/v1/messages` and its neighbours: Anthropic's Messages API on the local model."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from deepground.server.anthropic.replies import PING, MessageEnvelope, MessageEvents, MessageReply
from deepground.server.anthropic.schema import CountTokensRequest, MessagesRequest
from deepground.server.anthropic.translate import to_chat_request
from deepground.server.body import read_body
from deepground.server.chat.route import start_chats
from deepground.server.context import ServerContext
from deepground.server.exchange import Work, new_id
from deepground.server.models import model_ids
from deepground.server.openapi import describe_body
from deepground.server.service import ServedModel
from deepground.server.values import Json

PATHS = ("/anthropic/v1/messages", "/v1/messages")
"""DeepSeek's path, and Anthropic's own; the first is the one in the OpenAPI document."""


def install_anthropic(app: FastAPI, context: ServerContext) -> None:
    """Add the routes."""

    async def messages(request: Request) -> Response:
        """Continue a conversation in the words of Anthropic's API, whole or as a stream."""
        body = await read_body(request, MessagesRequest, max_bytes=context.max_body_bytes)
        user = None if body.metadata is None else body.metadata.user_id
        asked = to_chat_request(body, context.model, context.exchange.cache_salt(request, user))
        envelope = MessageEnvelope(id=new_id("msg_"), model=body.model)
        work = Work(
            id=envelope.id,
            route="messages",
            user=user,
            start=lambda: start_chats(context.service, asked),
            writer=MessageEvents(envelope) if body.stream else MessageReply(envelope),
            keep_alive=PING,
        )
        return await context.exchange.answer(request, work)

    async def count_tokens(request: Request) -> Response:
        """How many tokens a conversation has for the model."""
        body = await read_body(request, CountTokensRequest, max_bytes=context.max_body_bytes)
        asked = to_chat_request(body, context.model)
        ids = await asyncio.to_thread(context.service.prompt_ids, asked)
        return JSONResponse({"input_tokens": len(ids)})

    for path in PATHS:
        shown = path == PATHS[0]
        app.post(path, include_in_schema=shown, openapi_extra=describe_body(MessagesRequest))(messages)
        app.post(f"{path}/count_tokens", include_in_schema=shown, openapi_extra=describe_body(CountTokensRequest))(
            count_tokens
        )

    @app.get("/anthropic/v1/models")
    async def anthropic_models() -> Response:
        """The ids that a request may name, in the shape of Anthropic's API."""
        entries = [_model_json(name, context.model) for name in model_ids(context.model)]
        ends = {"first_id": entries[0]["id"], "last_id": entries[-1]["id"]}
        return JSONResponse({"data": entries, "has_more": False, **ends})


def _model_json(name: str, model: ServedModel) -> Json:
    created = datetime.fromtimestamp(model.created, UTC).isoformat().replace("+00:00", "Z")
    return {"type": "model", "id": name, "display_name": name, "created_at": created}
