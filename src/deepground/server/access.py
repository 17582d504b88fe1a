"""Who may talk to the server: keys, and for servers without one, only this machine.

Every path but /health, the page's own files (the same bytes for everyone, from the package) and previews (whose
addresses are secrets) needs a key where there are keys. It comes as `Authorization: Bearer KEY`, as `x-api-key: KEY`
(Anthropic's way), or as the password of HTTP Basic. Without keys the server listens on loopback only, and then a
request must also name a loopback host: a web page that has pointed its own domain at 127.0.0.1 (DNS rebinding) is
turned away. A Unix socket is only for those who may open it, and needs no such check.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deepground.server.callers import LOCAL, Caller, KeyRing
from deepground.server.errors import Problem
from deepground.server.page import is_page_path

OPEN_PATHS = frozenset({"/health"})
METRICS_PATH = "/metrics"
PREVIEW_PREFIX = "/agent/previews/"
"""Addresses below it are secrets themselves, made for one file and a short time: a frame cannot send a key."""
_SAFETY_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]


class AccessControl:
    """ASGI middleware that lets only permitted requests through, and writes down who sent them.

    Args:
        app: what is protected.
        keys: knows the keys; None: there are none.
        on_response: told the path's template, or "other", and the status of every response.
    """

    def __init__(self, app: ASGIApp, *, keys: KeyRing | None, on_response: Callable[[str, int], None]) -> None:
        self._app = app
        self._keys = keys
        self._on_response = on_response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through or answer 401 or 403."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *_SAFETY_HEADERS]}
                self._on_response(getattr(scope.get("route"), "path", "other"), message["status"])
            await send(message)

        caller = self._caller(scope, Headers(scope=scope))
        if isinstance(caller, Problem):
            challenge = {"www-authenticate": "Bearer"} if caller.status == 401 else None
            await caller.response(scope["path"], challenge)(scope, receive, send_with_headers)
            return
        scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, receive, send_with_headers)

    def _caller(self, scope: Scope, headers: Headers) -> Caller | Problem:
        path = scope["path"]
        if path in OPEN_PATHS:
            return LOCAL
        if self._keys is None:
            if scope.get("client") is None or is_loopback_host(_host_name(headers.get("host", ""))):
                return LOCAL
            return Problem(
                403,
                "This server has no API key and therefore answers only requests to localhost; "
                "start it with --api-key or with keys from `deepground keys create` to use another name",
                code="host_not_allowed",
            )
        if is_page_path(path) or path.startswith(PREVIEW_PREFIX):
            return LOCAL
        presented = presented_key(headers)
        if presented is None:
            return Problem(
                401, "Authentication Fails (no API key given: send Authorization: Bearer KEY)", code="invalid_api_key"
            )
        caller = self._keys.find(presented)
        if caller is None:
            hint = f"****{presented[-4:]}" if len(presented) >= 12 else "****"
            return Problem(401, f"Authentication Fails, Your api key: {hint} is invalid", code="invalid_api_key")
        if caller.scope != "all" and (caller.scope == "metrics") != (path == METRICS_PATH):
            opens = "the metrics only" if caller.scope == "metrics" else "the API, not the metrics"
            return Problem(403, f"This key is for {opens}", code="not_allowed")
        return caller


def is_loopback_host(name: str) -> bool:
    """Whether a host name or address can only mean this machine."""
    if name.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _host_name(host_header: str) -> str:
    if host_header.startswith("["):
        return host_header[1:].partition("]")[0]
    return host_header.partition(":")[0]


def presented_key(headers: Headers) -> str | None:
    """The key that a request brings, in whichever way."""
    scheme, _, rest = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip() or headers.get("x-api-key")
    if scheme.lower() == "basic":
        try:
            pair = base64.b64decode(rest.strip(), validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError):
            return None
        return pair.partition(":")[2] or None
    return headers.get("x-api-key") or None
