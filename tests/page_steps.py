"""What a person does on the page, for the tests."""

from __future__ import annotations

from playwright.sync_api import Locator, Page, expect


def ask(page: Page, text: str, *, wait: bool = True) -> None:
    """Send a message; wait for the end of the reply."""
    page.get_by_label("Your message", exact=True).fill(text)
    page.get_by_role("button", name="Send", exact=True).click()
    if wait:
        wait_for_end(page)


def wait_for_end(page: Page) -> None:
    """Until no reply is under way and the last one has its foot."""
    expect(page.locator("#send:not(.is-stop)")).to_be_visible()
    expect(replies(page).last.locator(".message-foot .stats")).to_be_attached()


def replies(page: Page) -> Locator:
    return page.locator(".message-reply")


def questions(page: Page) -> Locator:
    return page.locator(".message-user")


def answer(page: Page) -> Locator:
    """The text of the last reply, without its thinking."""
    return replies(page).last.locator(".reply-body")
