"""Addresses and ports."""

import ssl
import subprocess
from pathlib import Path

import httpx
import pytest

from deepground.errors import ListenError
from deepground.server import TlsFiles, bind, bind_unix, url_of
from server_fakes import ScriptedService, serving


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


def test_a_unix_socket_replaces_a_dead_one_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deepground.sock"
    with bind_unix(path) as sock:
        assert url_of(sock) == f"unix:{path}"
        assert path.stat().st_mode & 0o777 == 0o660
        sock.listen()
        with pytest.raises(ListenError, match="another server listens"):
            bind_unix(path)
    bind_unix(path, mode=0o600).close()
    assert path.stat().st_mode & 0o777 == 0o600
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(ListenError, match="is no socket"):
        bind_unix(file)
    assert file.read_text() == "precious"
    with pytest.raises(ListenError, match="cannot listen"):
        bind_unix(tmp_path / "none" / "x.sock")


def test_requests_over_a_unix_socket_need_no_host_name(tmp_path: Path) -> None:
    service = ScriptedService()
    with serving(service, bind_unix(tmp_path / "s.sock")):
        transport = httpx.HTTPTransport(uds=str(tmp_path / "s.sock"))
        with httpx.Client(transport=transport, base_url="http://deepground.local") as client:
            assert client.get("/v1/models").is_success


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")],
        check=True, capture_output=True,
    )  # fmt: skip
    return TlsFiles(folder / "cert.pem", folder / "key.pem")


def test_https(certificate: TlsFiles) -> None:
    sock = bind("127.0.0.1", 0)
    url = url_of(sock, tls=True)
    assert url.startswith("https://127.0.0.1:")
    with serving(ScriptedService(), sock, tls=certificate):
        context = ssl.create_default_context(cafile=certificate.certificate)
        assert httpx.get(f"{url}/health", verify=context).json() == {"status": "ok"}


def test_wrong_tls_files_are_named(certificate: TlsFiles, tmp_path: Path) -> None:
    with pytest.raises(ListenError, match="does not exist"):
        TlsFiles(tmp_path / "cert.pem", certificate.key)
    with pytest.raises(ListenError, match="not a certificate and its private key"):
        TlsFiles(certificate.key, certificate.certificate)
