"""`POST /responses`: OpenAI's newer API, without state."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response

from deepground.server.body import read_body
from deepground.server.chat.route import start_chats
from deepground.server.context import ServerContext
from deepground.server.exchange import Work, new_id
from deepground.server.openapi import describe_body
from deepground.server.responses.replies import ResponseEnvelope, ResponseEvents, WholeResponse
from deepground.server.responses.schema import ResponsesRequest
from deepground.server.responses.translate import to_chat_request

PATHS = ("/v1/responses", "/responses")
"""The first is the one in the OpenAPI document."""


def install_responses(app: FastAPI, context: ServerContext) -> None:
    """Add the route."""

    async def responses(request: Request) -> Response:
        """Continue a conversation of items, whole or as a stream."""
        body = await read_body(request, ResponsesRequest, max_bytes=context.max_body_bytes)
        asked = to_chat_request(body, context.model, context.exchange.cache_salt(request, body.user))
        envelope = ResponseEnvelope(id=new_id("resp_"), body=body)
        work = Work(
            id=envelope.id,
            route="responses",
            user=body.user,
            start=lambda: start_chats(context.service, asked),
            writer=ResponseEvents(envelope) if body.stream else WholeResponse(envelope),
        )
        return await context.exchange.answer(request, work)

    for path in PATHS:
        app.post(path, include_in_schema=path == PATHS[0], openapi_extra=describe_body(ResponsesRequest))(responses)
