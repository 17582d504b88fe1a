"""`POST /chat/completions`."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response

from deepground.engine import ChatRequest
from deepground.server.body import read_body
from deepground.server.chat.replies import ChatChunks, ChatReply, Envelope
from deepground.server.chat.schema import ChatCompletionRequest
from deepground.server.chat.translate import to_chat_request
from deepground.server.context import ServerContext
from deepground.server.exchange import Work, new_id
from deepground.server.openapi import describe_body
from deepground.server.service import Events, ModelService

PATHS = ("/v1/chat/completions", "/chat/completions", "/beta/chat/completions", "/beta/v1/chat/completions")
"""The first is the one in the OpenAPI document. DeepSeek's beta paths are the same: nothing here needs them."""


def install_chat(app: FastAPI, context: ServerContext) -> None:
    """Add the route."""

    async def chat_completions(request: Request) -> Response:
        """Continue a conversation, whole or as a stream."""
        body = await read_body(request, ChatCompletionRequest, max_bytes=context.max_body_bytes)
        user = body.user_id or body.user
        asked = to_chat_request(body, context.model, context.exchange.cache_salt(request, user))
        choices = body.n or 1
        envelope = Envelope(
            id=new_id("chatcmpl-"),
            model=body.model,
            fingerprint=context.model.fingerprint,
            thinking=asked.thinking,
            logprobs=bool(body.logprobs),
            choices=choices,
        )
        usage_asked = body.stream_options is not None and bool(body.stream_options.include_usage)
        work = Work(
            id=envelope.id,
            route="chat",
            user=user,
            start=lambda: start_chats(context.service, asked, choices),
            writer=ChatChunks(envelope, include_usage=usage_asked) if body.stream else ChatReply(envelope),
        )
        return await context.exchange.answer(request, work)

    for path in PATHS:
        app.post(path, include_in_schema=path == PATHS[0], openapi_extra=describe_body(ChatCompletionRequest))(
            chat_completions
        )


def start_chats(service: ModelService, asked: ChatRequest, choices: int = 1) -> list[Events]:
    """So many answers to one conversation."""
    return [
        service.start_chat(
            asked.messages,
            asked.params.for_choice(choice),
            tools=asked.tools,
            tool_choice=asked.tool_choice,
            parallel_tool_calls=asked.parallel_tool_calls,
            thinking=asked.thinking,
            thinking_language=asked.thinking_language,
            continue_last=asked.continue_last,
            cache_salt=asked.cache_salt,
        )
        for choice in range(choices)
    ]
