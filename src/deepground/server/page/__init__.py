"""The page at `/`: says what is running, shows how to call it, and has a small chat box."""

from __future__ import annotations

import html
import secrets
from importlib.resources import files

from fastapi.responses import HTMLResponse

from deepground.server.service import ServedModel


def render_page(model: ServedModel, *, base_url: str) -> HTMLResponse:
    """The page, which loads nothing from anywhere and may only talk to this server.

    Args:
        model: what is running.
        base_url: where the client reached the server.
    """
    nonce = secrets.token_urlsafe(16)
    text = files(__package__).joinpath("index.html").read_text(encoding="utf-8")
    for mark, value in {
        "{{nonce}}": nonce,
        "{{model}}": model.name,
        "{{base_url}}": base_url.rstrip("/"),
        "{{context}}": str(model.context_length),
    }.items():
        text = text.replace(mark, html.escape(value, quote=True))
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse(text, headers={"content-security-policy": policy, "cache-control": "no-store"})
