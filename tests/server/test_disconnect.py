"""A client that leaves frees the engine at once; a server that stops lets replies end, but not forever."""

import json
import socket
import threading
import time
from urllib.parse import urlsplit

import httpx
import pytest

from deepground.server import ServerLimits
from server_fakes import ScriptedService, running_server, wait_until


def raw_request(url: str, body: dict[str, object]) -> socket.socket:
    address = urlsplit(url)
    assert address.hostname
    sock = socket.create_connection((address.hostname, address.port))
    content = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    sock.sendall(head.encode() + content)
    return sock


def forever(*, stream: bool, text: str = "forever") -> dict[str, object]:
    return {"model": "scripted", "messages": [{"role": "user", "content": text}], "stream": stream}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("text", ["forever", "slow 60"])
def test_leaving_aborts_at_once(stream: bool, text: str) -> None:
    service = ScriptedService()
    with running_server(service, limits=ServerLimits(keep_alive_s=0.2)) as url:
        sock = raw_request(url, forever(stream=stream, text=text))
        wait_until(lambda: service.running == 1)
        if stream:
            sock.recv(100)
        start = time.monotonic()
        sock.close()
        wait_until(lambda: service.running == 0)
        assert time.monotonic() - start < 1
        assert service.aborted == 1
        assert httpx.get(f"{url}/health").is_success


def test_leaving_while_sending_the_body_is_harmless() -> None:
    with running_server(ScriptedService()) as url:
        address = urlsplit(url)
        sock = socket.create_connection((address.hostname or "", address.port or 0))
        sock.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 999\r\n\r\n{"
        )
        time.sleep(0.05)
        sock.close()
        assert httpx.get(f"{url}/health").is_success


def test_a_running_reply_ends_before_the_server_does() -> None:
    service = ScriptedService()
    texts: list[str] = []
    body = {"model": "deepseek-chat", "messages": [{"role": "user", "content": "slow 0.4"}]}
    with running_server(service) as url:
        thread = threading.Thread(
            target=lambda: texts.append(httpx.post(f"{url}/v1/chat/completions", json=body, timeout=20).text)
        )
        thread.start()
        wait_until(lambda: service.running == 1)
    thread.join()
    assert json.loads(texts[0])["choices"][0]["finish_reason"] == "stop"


def test_an_endless_stream_is_told_when_the_grace_is_over() -> None:
    service = ScriptedService()
    with running_server(service, grace_s=0.5) as url:
        sock = raw_request(url, forever(stream=True))
        wait_until(lambda: service.running == 1)
    received = b""
    while piece := sock.recv(65536):
        received += piece
    sock.close()
    assert (service.running, service.aborted) == (0, 1)
    assert b'"code":"aborted"' in received
    assert b"[DONE]" not in received


def test_a_reply_that_cannot_be_stopped_does_not_hold_the_server_up() -> None:
    service = ScriptedService()
    with running_server(service, grace_s=0.1) as url:
        sock = raw_request(url, forever(stream=True, text="slow 600"))
        wait_until(lambda: service.running == 1)
    assert (service.running, service.aborted) == (0, 1)
    sock.close()
