"""The server room: an OpenAI- and DeepSeek-compatible API in front of the engine.

app = create_app(session, model)    # a FastAPI application, for any ASGI server
serve_app(app, bind("127.0.0.1", 8000), cut_off=service.stop)    # or this one, until a signal
"""

from deepground.server.app import ServerLimits, create_app
from deepground.server.describe import describe_model
from deepground.server.listen import bind, serve_app, url_of
from deepground.server.service import ChatService, ServedModel

__all__ = ["ChatService", "ServedModel", "ServerLimits", "bind", "create_app", "describe_model", "serve_app", "url_of"]
