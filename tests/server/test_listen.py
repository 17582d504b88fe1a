"""Addresses and ports."""

import pytest

from deepground.errors import ListenError
from deepground.server import bind, url_of


def test_a_free_port() -> None:
    with bind("127.0.0.1", 0) as sock:
        assert url_of(sock).startswith("http://127.0.0.1:")


def test_a_taken_port_is_said_with_the_cure() -> None:
    with bind("127.0.0.1", 0) as sock:
        sock.listen()
        with pytest.raises(ListenError, match=r"in use.*--port"):
            bind("localhost", sock.getsockname()[1])


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_open_addresses_need_a_key(host: str) -> None:
    with pytest.raises(ListenError, match="needs a key"):
        bind(host, 0)


def test_with_a_key_any_address_goes() -> None:
    with bind("0.0.0.0", 0, has_key=True) as sock:
        assert url_of(sock).startswith("http://0.0.0.0:")


def test_no_such_address() -> None:
    with pytest.raises(ListenError, match="--host"):
        bind("no such host", 0)
