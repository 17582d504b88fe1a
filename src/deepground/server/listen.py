"""Listening: the socket, and a uvicorn that stops as asked."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from deepground.errors import ListenError
from deepground.server.access import is_loopback_host

_CUT_OFF_S = 3
"""What replies get to say that they were cut off; the connections are closed after that."""


def bind(host: str, port: int, *, has_key: bool = False) -> socket.socket:
    """A bound socket for `serve_app`; port 0 takes a free one.

    It does not listen yet: while a model loads, clients are refused rather than kept waiting.

    Raises:
        ListenError: the address is unknown, taken, or open to others while there is no key.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise ListenError(f"--host {host!r} is not an address of this machine: {error}") from None
    if not has_key and not is_loopback_host(str(address[0])):
        raise ListenError(
            f"--host {host} is open to other machines, which needs a key: "
            "set DEEPGROUND_API_KEY or --api-key, or listen on 127.0.0.1",
        )
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise _listen_error(error, host, port) from None
    return sock


def _listen_error(error: OSError, host: str, port: int) -> ListenError:
    if error.errno == errno.EADDRINUSE:
        return ListenError(f"port {port} on {host} is in use by another program; choose another with --port")
    return ListenError(f"cannot listen on {host} port {port}: {error.strerror}; choose others with --host and --port")


def url_of(sock: socket.socket) -> str:
    """Where a client on this machine reaches the socket."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve_app(
    app: ASGIApp,
    sock: socket.socket,
    *,
    cut_off: Callable[[], None],
    grace_s: float = 30.0,
    on_server: Callable[[uvicorn.Server], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; then no new connections, and running replies may end.

    Args:
        app: the application.
        sock: from `bind`.
        cut_off: ends all running replies; called, in a thread, when the grace is over or after a second signal.
        grace_s: seconds that running replies get.
        on_server: is handed the server before it starts; setting its `should_exit` stops it from another thread.

    Raises:
        ListenError: another server was quicker.
    """
    try:
        # Two servers can be bound to one port as long as none listens: here it shows.
        sock.listen(1024)
    except OSError as error:
        raise _listen_error(error, *sock.getsockname()[:2]) from None
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        http="h11",
        timeout_graceful_shutdown=round(grace_s) + _CUT_OFF_S,
        timeout_keep_alive=30,
    )
    server = _Server(config, cut_off, grace_s)
    if on_server is not None:
        on_server(server)
    server.run(sockets=[sock])


class _Server(uvicorn.Server):
    """Ends replies in order before it ends itself, and returns after a signal instead of raising it again."""

    def __init__(self, config: uvicorn.Config, cut_off: Callable[[], None], grace_s: float) -> None:
        super().__init__(config)
        self._cut_off = cut_off
        self._grace_s = grace_s
        self._in_a_hurry = False

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._in_a_hurry = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        cutting_off = asyncio.create_task(self._cut_off_in_time())
        try:
            await super().shutdown(sockets)
        finally:
            cutting_off.cancel()

    async def _cut_off_in_time(self) -> None:
        end = time.monotonic() + self._grace_s
        while time.monotonic() < end and not self._in_a_hurry:
            await asyncio.sleep(0.1)
        await asyncio.to_thread(self._cut_off)
