"""Listening: the socket, and a uvicorn that stops as asked."""

from __future__ import annotations

import contextlib
import errno
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

from deepground.errors import ListenError
from deepground.server.access import is_loopback_host


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
    grace_s: float = 30.0,
    on_server: Callable[[uvicorn.Server], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; then no new connections, and running replies may end.

    Args:
        app: the application.
        sock: from `bind`.
        grace_s: seconds that running replies get before they are cut off; a second Ctrl-C cuts them at once.
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
        timeout_graceful_shutdown=max(1, round(grace_s)),
        timeout_keep_alive=30,
    )
    server = _Server(config)
    if on_server is not None:
        on_server(server)
    server.run(sockets=[sock])


class _Server(uvicorn.Server):
    """Returns after a signal instead of raising it again, so that the caller can stop the engine in order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handled = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
