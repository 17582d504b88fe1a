"""The application: its routes, and what stands before them.

The way of a request through this room: `access` -> a wire's `route` -> `body` and its `schema` -> its `translate` ->
`exchange` -> the engine's `ModelSession` -> its `replies` -> `streaming`. The wires are `chat`, `completions`,
`anthropic` and `responses`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.middleware.cors import CORSMiddleware

import deepground
from deepground.server.access import METRICS_PATH, AccessControl
from deepground.server.agent_routes import AgentRunner, install_agent
from deepground.server.anthropic.route import install_anthropic
from deepground.server.audit import AuditLog
from deepground.server.callers import KeyRing, caller_of
from deepground.server.chat.route import install_chat
from deepground.server.completions.route import install_completions
from deepground.server.context import ServerContext
from deepground.server.errors import install_error_handlers
from deepground.server.exchange import Exchange
from deepground.server.gate import Gate
from deepground.server.metrics import CONTENT_TYPE, Metrics
from deepground.server.models import balance_json, check_model, model_json, models_json
from deepground.server.openapi import install_openapi
from deepground.server.page import install_page
from deepground.server.responses.route import install_responses
from deepground.server.service import ModelService, ServedModel
from deepground.server.tokens import install_tokens


@dataclass(frozen=True, kw_only=True)
class ServerLimits:
    """What one server takes on."""

    max_body_bytes: int = 8 * 2**20
    """Largest request body."""
    max_running: int = 36
    """Replies in the engine at one time; others wait, and keys take turns. A few more than the engine computes at once,
    so that it never has to ask for the next one."""
    max_requests: int = 256
    """Requests answered or waiting at one time; one more is told 503."""
    max_wait_s: float = 600.0
    """Longest that a reply waits to be begun; DeepSeek's ten minutes."""
    keep_alive_s: float = 10.0
    """Silence after which something is sent that means nothing."""


class Server(FastAPI):
    """The application, and the gate that a server which stops has to close."""

    gate: Gate


def create_app(
    service: ModelService,
    model: ServedModel,
    *,
    keys: KeyRing | None = None,
    limits: ServerLimits | None = None,
    audit: AuditLog | None = None,
    cors_origins: Sequence[str] = (),
    agent: AgentRunner | None = None,
) -> Server:
    """The API in front of `service`.

    Args:
        service: answers; started and stopped by the caller.
        model: what the API says about the model behind it.
        keys: if given, every path but /health and the page's own files needs one of them.
        limits: see `ServerLimits`.
        audit: where requests are written down.
        cors_origins: web pages of these origins may use the API from a browser; none by default.
        agent: runs agents for those who ask; None: the server has none.
    """
    limits = limits or ServerLimits()
    gate = Gate(max_running=limits.max_running, max_requests=limits.max_requests, max_wait_s=limits.max_wait_s)
    metrics = Metrics(service, gate)
    # The documentation pages of the framework load scripts from elsewhere; only the plain schema is served.
    app = Server(title="deepground", version=deepground.__version__, docs_url=None, redoc_url=None)
    app.gate = gate
    app.add_middleware(
        AccessControl, keys=keys, on_response=lambda route, status: metrics.responses.labels(route, status).inc()
    )
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after"],
        )
    install_error_handlers(app)
    install_openapi(app)
    exchange = Exchange(gate=gate, metrics=metrics, keep_alive_s=limits.keep_alive_s, keys=keys, audit=audit)
    context = ServerContext(service=service, model=model, exchange=exchange, max_body_bytes=limits.max_body_bytes)
    install_chat(app, context)
    install_completions(app, context)
    install_anthropic(app, context)
    install_responses(app, context)
    install_tokens(app, context)
    _install_small_routes(app, context, metrics)
    install_agent(app, agent, gate=gate, max_body_bytes=limits.max_body_bytes, keep_alive_s=limits.keep_alive_s)
    install_page(app)
    return app


def _install_small_routes(app: FastAPI, context: ServerContext, metrics: Metrics) -> None:
    model = context.model

    @app.get("/health")
    def health() -> Response:
        """Whether requests can be answered; the only path that never needs a key."""
        if not context.service.is_healthy:
            return JSONResponse({"status": "failed"}, 503)
        if context.exchange.gate.is_closed:
            return JSONResponse({"status": "stopping"}, 503)
        return JSONResponse({"status": "ok"})

    @app.get(METRICS_PATH)
    async def figures() -> Response:
        """Figures for Prometheus."""
        return Response(metrics.text(), headers={"content-type": CONTENT_TYPE})

    @app.get("/models", include_in_schema=False)
    @app.get("/v1/models")
    async def models() -> Response:
        """The ids that a request may name."""
        return JSONResponse(models_json(model))

    @app.get("/models/{name}", include_in_schema=False)
    @app.get("/v1/models/{name}")
    async def one_model(name: str) -> Response:
        """One of these ids."""
        check_model(name, model, status=404)
        return JSONResponse(model_json(name, model))

    @app.get("/user/balance")
    async def balance(request: Request) -> Response:
        """Whether the caller may go on: a local model costs no money, but a key may have a budget of tokens."""
        return JSONResponse(balance_json(caller_of(request)))
