"""The server room: an OpenAI- and DeepSeek-compatible API in front of the engine.

app = create_app(service)           # a FastAPI application, for any ASGI server
serve_app(app, bind("127.0.0.1", 8000))   # or this one, until SIGTERM or Ctrl-C
"""

from deepground.server.app import ServerLimits, create_app
from deepground.server.listen import bind, serve_app, url_of
from deepground.server.service import ChatEvent, ChatService, ServedModel

__all__ = ["ChatEvent", "ChatService", "ServedModel", "ServerLimits", "bind", "create_app", "serve_app", "url_of"]
