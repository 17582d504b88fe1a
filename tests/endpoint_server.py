"""A real HTTP server on 127.0.0.1 that plays an OpenAI-compatible endpoint, well-behaved or not."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, dict[str, str], bytes]
Script = Callable[[dict[str, Any], int], Answer]
"""The request's body and its number, from 0, to the answer."""


def completion(
    text: str, *, reasoning: str = "", finish: str = "stop", prompt_tokens: int = 10, completion_tokens: int = 20
) -> Answer:
    message = {"role": "assistant", "content": text, **({"reasoning_content": reasoning} if reasoning else {})}
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    body = {"choices": [{"message": message, "finish_reason": finish}], "usage": usage}
    return 200, {}, json.dumps(body).encode()


def failure(status: int, message: str, **headers: str) -> Answer:
    return status, headers, json.dumps({"error": {"message": message}}).encode()


class FakeEndpoint:
    """What was asked, and where to ask."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.models = ["m"]


@contextmanager
def endpoint_server(script: Script) -> Iterator[FakeEndpoint]:
    """Serve `script` until the block ends."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            fake.headers.append(dict(self.headers))
            content = json.dumps({"object": "list", "data": [{"id": name} for name in fake.models]}).encode()
            self.send_response(200 if self.path == "/v1/models" else 404)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(fake.requests)
                fake.requests.append(body)
                fake.headers.append(dict(self.headers))
            status, headers, content = script(body, number)
            if status == 0:
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            try:
                self.wfile.write(content)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    fake = FakeEndpoint(f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
