"""A real server and a real Chromium for the tests of the page."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from page_fakes import PageService
from server_fakes import MODEL, running_server

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MODEL_NAME = "pilot"

OpenPage = Callable[..., Page]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """These tests last: until it ends, Playwright's event loop counts as running, and asyncio.run refuses to work."""
    here = Path(__file__).parent
    items.sort(key=lambda item: here in item.path.parents)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: install it (Debian: apt-get install chromium)")
    expect.set_options(timeout=8000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def service() -> PageService:
    return PageService()


@pytest.fixture(scope="module")
def url(service: PageService) -> Iterator[str]:
    with running_server(service, replace(MODEL, name=MODEL_NAME)) as url:
        yield url


@pytest.fixture
def contexts(browser: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """Makes fresh profiles, each with its own storage, and closes them."""
    made: list[BrowserContext] = []

    def make(**options: object) -> BrowserContext:
        options.setdefault("service_workers", "block")
        made.append(browser.new_context(**({"locale": "en-US", "viewport": {"width": 1200, "height": 800}} | options)))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for context in made:
        context.close()


@pytest.fixture
def open_page(contexts: Callable[..., BrowserContext], url: str) -> Iterator[OpenPage]:
    """Opens the page in a fresh profile. At the end, an error on the page's console fails the test."""
    problems: list[str] = []

    def open_(*, at: str = url, allowed: tuple[str, ...] = (), **options: object) -> Page:
        page = contexts(**options).new_page()

        def note(text: str) -> None:
            if not any(part in text for part in (*allowed, "Service Worker registration blocked by Playwright")):
                problems.append(text)

        page.on("console", lambda m: note(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: note(str(error)))
        page.goto(at)
        page.wait_for_selector("html[data-ready]")
        return page

    yield open_
    assert not problems


@pytest.fixture
def page(open_page: OpenPage) -> Page:
    return open_page()
