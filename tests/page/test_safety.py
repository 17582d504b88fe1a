"""What a model writes can neither run nor load anything, and nothing on the page comes from elsewhere."""

from __future__ import annotations

from collections.abc import Callable

import httpx
from playwright.sync_api import BrowserContext, Page, expect

from page_fakes import PageService
from page_steps import answer, ask, replies
from server_fakes import MODEL, running_server

PWNED = "window.pwned"
FORBIDDEN = "script, iframe, form, object, embed, base, meta, link, style, svg:not(.icon)"
HANDLERS = "[onerror], [onload], [onfocus], [onmouseover]"


def test_hostile_markdown_is_text(contexts: Callable[..., BrowserContext], url: str) -> None:
    context = contexts()
    asked_for: list[str] = []
    context.on("request", lambda request: asked_for.append(request.url))
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("html[data-ready]")
    ask(page, "hostile")
    body = answer(page)
    assert page.evaluate(PWNED) is None
    assert [element.evaluate("e => e.outerHTML") for element in body.locator(f"{FORBIDDEN}, {HANDLERS}").all()] == []
    for link in body.locator("a").all():
        assert (link.get_attribute("href") or "").startswith(("https://", "http://", "mailto:"))
        assert "noopener" in (link.get_attribute("rel") or "")
    assert body.locator("img").count() == 0
    expect(body).to_contain_text("<script>window.pwned = 1</script>")
    expect(body).to_contain_text(r"\href{javascript:window.pwned=11}{click}")  # Refused formulas keep their text.
    outside = [address for address in asked_for if not address.startswith((url, "data:", "blob:"))]
    assert outside == []


def test_hostile_thinking_titles_and_questions_are_text(page: Page) -> None:
    text = "echo <img src=x onerror=window.pwned=1><b>bold</b>"
    ask(page, text)
    assert page.evaluate(PWNED) is None
    expect(page.locator("#title")).to_contain_text("<img src=x")
    expect(page.locator(".message-user")).to_contain_text("<b>bold</b>")
    page.reload()
    expect(page.locator(".message-user")).to_contain_text("<b>bold</b>")
    assert page.evaluate(PWNED) is None


def test_the_policy_is_strict(url: str) -> None:
    policy = httpx.get(url).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert "require-trusted-types-for 'script'" in policy
    assert "http:" not in policy.replace("'self'", "")


def test_every_file_of_the_page_is_local_and_listed(url: str) -> None:
    page = httpx.get(url).text
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    for path in ("/page/none.js", "/page/../app.py", "/page/%2e%2e/app.py"):
        assert httpx.get(url + path).status_code == 404


def test_a_server_with_a_key_asks_for_it_and_keeps_it_only_if_told(
    contexts: Callable[..., BrowserContext], service: PageService
) -> None:
    with running_server(service, MODEL, api_key="sk-for-the-page") as locked:
        page = contexts().new_page()
        page.goto(locked)
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("API key")
        dialog.get_by_label("API key", exact=True).fill("wrong")
        dialog.get_by_role("button", name="Continue").click()
        expect(dialog).to_contain_text("did not accept")
        dialog.get_by_label("API key", exact=True).fill("sk-for-the-page")
        dialog.get_by_role("button", name="Continue").click()
        page.wait_for_selector("html[data-ready]")
        ask(page, "echo opened")
        expect(answer(page)).to_have_text("opened")
        assert "sk-for-the-page" not in page.evaluate("JSON.stringify(localStorage)")
        assert replies(page).count() == 1
