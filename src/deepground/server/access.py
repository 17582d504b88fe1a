"""Who may talk to the server: keys, and for servers without one, only this machine.

Every path but /health needs the key when there is one; it comes as `Authorization: Bearer KEY`, or as the
password of HTTP Basic, which is what a browser asks its user for. Without a key the server listens on
loopback only, and then a request must also name a loopback host: a web page that has pointed its own
domain at 127.0.0.1 (DNS rebinding) is turned away.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deepground.server.errors import Problem

OPEN_PATHS = frozenset({"/health"})
PAGE_PATH = "/"
_SAFETY_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]


class AccessControl:
    """ASGI middleware that lets only permitted requests through.

    Args:
        app: what is protected.
        api_key: the key, or None. Only its hash is kept.
    """

    def __init__(self, app: ASGIApp, *, api_key: str | None) -> None:
        self._app = app
        self._key_hash = None if api_key is None else _digest(api_key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through or answer 401 or 403."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        problem = self._objection(scope["path"], headers)
        if problem is not None:
            challenge = {"www-authenticate": 'Basic realm="deepground"' if scope["path"] == PAGE_PATH else "Bearer"}
            await problem.response(challenge if problem.status == 401 else None)(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *_SAFETY_HEADERS]}
            await send(message)

        await self._app(scope, receive, send_with_headers)

    def _objection(self, path: str, headers: Headers) -> Problem | None:
        if path in OPEN_PATHS:
            return None
        if self._key_hash is None:
            if is_loopback_host(_host_name(headers.get("host", ""))):
                return None
            return Problem(
                403,
                "This server has no API key and therefore answers only requests to localhost; "
                "start it with --api-key to use another name",
                code="host_not_allowed",
            )
        presented = _presented_key(headers.get("authorization", ""))
        if presented is None:
            return Problem(401, "Authentication Fails (no API key given: send Authorization: Bearer KEY)")
        if not hmac.compare_digest(_digest(presented), self._key_hash):
            hint = f"****{presented[-4:]}" if len(presented) >= 12 else "****"
            return Problem(401, f"Authentication Fails, Your api key: {hint} is invalid")
        return None


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


def _presented_key(authorization: str) -> str | None:
    scheme, _, rest = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip() or None
    if scheme.lower() == "basic":
        try:
            pair = base64.b64decode(rest.strip(), validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError):
            return None
        return pair.partition(":")[2] or None
    return None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
