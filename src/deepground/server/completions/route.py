"""`POST /completions`: a text is gone on with, or filled in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fastapi import FastAPI, Request, Response

from deepground.messages import SamplingParams
from deepground.server.body import read_body
from deepground.server.completions.replies import TextChunks, TextEnvelope, TextReply
from deepground.server.completions.schema import CompletionRequest
from deepground.server.context import ServerContext
from deepground.server.exchange import Work, new_id
from deepground.server.models import check_model
from deepground.server.openapi import describe_body
from deepground.server.sampling import check_max_tokens, given_sampling, to_logit_bias
from deepground.server.service import Events, ModelService, ServedModel

PATHS = ("/v1/completions", "/completions", "/beta/completions", "/beta/v1/completions")
"""The first is the one in the OpenAPI document."""


def install_completions(app: FastAPI, context: ServerContext) -> None:
    """Add the route."""

    async def completions(request: Request) -> Response:
        """Go on with a text, or fill in the middle of one; whole or as a stream."""
        body = await read_body(request, CompletionRequest, max_bytes=context.max_body_bytes)
        check_model(body.model, context.model)
        params = _to_params(body, context.model)
        user = body.user_id or body.user
        salt = context.exchange.cache_salt(request, user)
        texts = [prompt if body.echo and isinstance(prompt, str) else "" for prompt in body.prompt]
        envelope = TextEnvelope(
            id=new_id("cmpl-"),
            model=body.model,
            fingerprint=context.model.fingerprint,
            logprobs=body.logprobs is not None,
            beginnings=tuple(text for text in texts for _ in range(body.n or 1)),
        )
        usage_asked = body.stream_options is not None and bool(body.stream_options.include_usage)
        work = Work(
            id=envelope.id,
            route="completions",
            user=user,
            start=lambda: _start(context.service, body, params, salt),
            writer=TextChunks(envelope, include_usage=usage_asked) if body.stream else TextReply(envelope),
            prompts=len(body.prompt),
        )
        return await context.exchange.answer(request, work)

    for path in PATHS:
        app.post(path, include_in_schema=path == PATHS[0], openapi_extra=describe_body(CompletionRequest))(completions)


def _to_params(body: CompletionRequest, model: ServedModel) -> SamplingParams:
    max_tokens = check_max_tokens(body.max_tokens, model, field="max_tokens")
    return replace(
        model.default_params,
        **given_sampling(body),
        max_tokens=max_tokens or model.default_params.max_tokens,
        stop=tuple(body.stop or ()),
        logprobs=body.logprobs,
        logit_bias=to_logit_bias(body.logit_bias),
    )


def _start(
    service: ModelService, body: CompletionRequest, params: SamplingParams, cache_salt: str | None
) -> Sequence[Events]:
    return [
        service.start_completion(prompt, params.for_choice(choice), suffix=body.suffix, cache_salt=cache_salt)
        for prompt in body.prompt
        for choice in range(body.n or 1)
    ]
