"""The server room: OpenAI-, DeepSeek- and Anthropic-compatible APIs, and a page, in front of the engine.

app = create_app(session, model)    # a FastAPI application, for any ASGI server
serve_app(app, bind("127.0.0.1", 8000), cut_off=service.stop)    # or this one, until a signal
"""

from deepground.server.agent_routes import AgentFeed, AgentRunner
from deepground.server.app import Server, ServerLimits, create_app
from deepground.server.audit import AuditLog, verify_audit
from deepground.server.callers import LOCAL, KeyLimits, KeyRing, KeyRings, KeyScope, SingleKey
from deepground.server.describe import describe_model
from deepground.server.key_store import KeyRecord, KeyStore
from deepground.server.listen import TlsFiles, bind, bind_unix, serve_app, url_of
from deepground.server.logs import configure_logging
from deepground.server.service import Events, ModelService, ServedModel

__all__ = [
    "LOCAL",
    "AgentFeed",
    "AgentRunner",
    "AuditLog",
    "Events",
    "KeyLimits",
    "KeyRecord",
    "KeyRing",
    "KeyRings",
    "KeyScope",
    "KeyStore",
    "ModelService",
    "ServedModel",
    "Server",
    "ServerLimits",
    "SingleKey",
    "TlsFiles",
    "bind",
    "bind_unix",
    "configure_logging",
    "create_app",
    "describe_model",
    "serve_app",
    "url_of",
    "verify_audit",
]
