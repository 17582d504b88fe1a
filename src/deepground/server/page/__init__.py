"""The page at `/`: a chat client in the browser, made of plain files that ship with the package.

`static/` holds it: HTML, style sheets and ES modules as they were written, no build step, and `static/vendor/`
the third-party files that `tools/vendor_page.py` reproduces. The files are the same for everyone and say nothing
about the model or its users; everything of that kind comes over the API, which asks for the key.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

PAGE_PREFIX = "/page/"
"""Where the page's files are, beside the page itself at `/`."""

_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".woff2": "font/woff2",
}
_HEADERS = {
    # Nothing inline, nothing evaluated, nothing from elsewhere. Trusted Types close the sinks that turn strings into
    # markup or script; the one policy lets the page register its own service worker. Frames show what the agent made,
    # from addresses whose own policy lets nothing run.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self'; connect-src 'self'; "
        "manifest-src 'self'; worker-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types deepground-worker"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    # Kept by the browser, asked for again each time: a new version of the server is seen at once.
    "cache-control": "no-cache",
}
_VERSION_MARK = b"{{version}}"
_SHELL_MARK = b'["{{shell}}"]'


@dataclass(frozen=True)
class PageFile:
    """One file of the page, ready to be sent."""

    content: bytes
    media_type: str
    etag: str


def is_page_path(path: str) -> bool:
    """Whether a path is the page or one of its files: public, because the same bytes are in the package."""
    return path == "/" or path.startswith(PAGE_PREFIX)


@cache
def page_files() -> dict[str, PageFile]:
    """Every file of the page by its path below `static/`.

    The service worker is told the version (a hash over all files) and the list of what to keep for a start
    without the server.
    """
    contents = dict(_contents(files(__package__).joinpath("static"), ""))
    version = hashlib.sha256(b"".join(contents[name] for name in sorted(contents))).hexdigest()[:16]
    shell = ", ".join(f'"{name}"' for name in sorted(contents) if _is_shell(name))
    worker = contents["sw.js"].replace(_VERSION_MARK, version.encode())
    contents["sw.js"] = worker.replace(_SHELL_MARK, f"[{shell}]".encode())
    return {
        name: PageFile(content, _media_type(name), f'"{hashlib.sha256(content).hexdigest()[:32]}"')
        for name, content in contents.items()
    }


def install_page(app: FastAPI) -> None:
    """Add the routes of the page."""
    found = page_files()

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    def page(request: Request) -> Response:
        return _reply(found["index.html"], request)

    @app.api_route(PAGE_PREFIX + "{name:path}", methods=["GET", "HEAD"], include_in_schema=False)
    def page_file(name: str, request: Request) -> Response:
        if name not in found:
            raise HTTPException(404, "The page has no such file")
        return _reply(found[name], request)


def _reply(file: PageFile, request: Request) -> Response:
    headers = {**_HEADERS, "etag": file.etag}
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if request.url.path.endswith("/sw.js"):
        # The worker lives below /page/ and serves the page above it.
        headers["service-worker-allowed"] = "../"
    return Response(file.content, headers=headers, media_type=file.media_type)


def _contents(folder: Traversable, prefix: str) -> list[tuple[str, bytes]]:
    found = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _contents(entry, f"{prefix}{entry.name}/")
        else:
            found.append((prefix + entry.name, entry.read_bytes()))
    return found


def _media_type(name: str) -> str:
    return _MEDIA_TYPES.get(name[name.rfind(".") :], "text/plain; charset=utf-8")


def _is_shell(name: str) -> bool:
    return name not in ("index.html", "sw.js") and not name.endswith(("LICENSE", "vendor.json"))
