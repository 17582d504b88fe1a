"""Listening: the socket, and a uvicorn that stops as asked."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from deepground.errors import ListenError
from deepground.server.access import is_loopback_host

_CUT_OFF_S = 3
"""What replies get to say that they were cut off; the connections are closed after that."""


@dataclass(frozen=True)
class TlsFiles:
    """Files of a server that speaks HTTPS, in PEM.

    Raises:
        ListenError: they cannot be read, or do not belong together.
    """

    certificate: Path
    """The certificate, and those up to its authority behind it."""
    key: Path
    """Its private key, without a password."""

    def __post_init__(self) -> None:
        for path in (self.certificate, self.key):
            if not path.is_file():
                raise ListenError(f"the TLS file {path} does not exist")
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, self.key, password="")
        except (ssl.SSLError, OSError) as error:
            raise ListenError(
                f"{self.certificate} and {self.key} are not a certificate and its private key in PEM form "
                f"without a password: {error}"
            ) from None


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


def bind_unix(path: Path, *, mode: int = 0o660) -> socket.socket:
    """A bound Unix socket for `serve_app`; a socket that a server left behind is replaced.

    Args:
        path: where it appears.
        mode: who may connect, as file permissions.

    Raises:
        ListenError: something else is there, a server listens there, or the place cannot be written.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() or path.is_symlink():
            _remove_dead_socket(path)
        mask = os.umask(0o177)  # Nobody gets in between binding and the change of mode.
        try:
            sock.bind(str(path))
        finally:
            os.umask(mask)
        path.chmod(mode)
    except OSError as error:
        sock.close()
        raise ListenError(f"cannot listen on {path}: {error.strerror or error}") from None
    except ListenError:
        sock.close()
        raise
    return sock


def _remove_dead_socket(path: Path) -> None:
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise ListenError(f"{path} exists and is no socket; choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise ListenError(f"another server listens on {path}; choose another path")


def url_of(sock: socket.socket, *, tls: bool = False) -> str:
    """Where a client on this machine reaches the socket."""
    if sock.family == socket.AF_UNIX:
        return f"unix:{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def serve_app(
    app: ASGIApp,
    sock: socket.socket,
    *,
    cut_off: Callable[[], None],
    grace_s: float = 30.0,
    tls: TlsFiles | None = None,
    on_stop: Callable[[], None] = lambda: None,
    on_server: Callable[[uvicorn.Server], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; then no new connections, and running replies may end.

    Args:
        app: the application.
        sock: from `bind`.
        cut_off: ends all running replies; called, in a thread, when the grace is over or after a second signal.
        grace_s: seconds that running replies get.
        tls: speak HTTPS with these.
        on_stop: called in the event loop when the stop begins: nothing new should be taken on.
        on_server: is handed the server before it starts; setting its `should_exit` stops it from another thread.

    Raises:
        ListenError: another server was quicker.
    """
    try:
        # Two servers can be bound to one port as long as none listens: here it shows.
        sock.listen(1024)
    except OSError as error:
        if sock.family == socket.AF_UNIX:
            raise ListenError(f"cannot listen on {sock.getsockname()}: {error.strerror}") from None
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
        ssl_certfile=None if tls is None else tls.certificate,
        ssl_keyfile=None if tls is None else tls.key,
    )
    server = _Server(config, cut_off, on_stop, grace_s)
    if on_server is not None:
        on_server(server)
    server.run(sockets=[sock])


class _Server(uvicorn.Server):
    """Ends replies in order before it ends itself, and returns after a signal instead of raising it again."""

    def __init__(
        self, config: uvicorn.Config, cut_off: Callable[[], None], on_stop: Callable[[], None], grace_s: float
    ) -> None:
        super().__init__(config)
        self._cut_off = cut_off
        self._on_stop = on_stop
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
        self._on_stop()
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
