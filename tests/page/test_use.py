"""The page for everyone: by keyboard alone, on a phone, in two languages, light and dark, and by axe's rules."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urljoin

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from page_axe import faults
from page_fakes import PageService
from page_steps import answer, ask, replies
from server_fakes import MODEL, running_server


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_axe_finds_no_serious_fault(open_page: Callable[..., Page], scheme: str, width: int) -> None:
    page = open_page(
        color_scheme=scheme, viewport={"width": width, "height": 800}, reduced_motion="reduce", bypass_csp=True
    )
    assert faults(page) == []
    ask(page, "markdown")
    assert faults(page) == []
    page.keyboard.press("Control+,")
    expect(page.get_by_label("Temperature")).to_be_visible()
    assert faults(page) == []


def test_keyboard_alone(page: Page) -> None:
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("/")
    page.keyboard.type("echo first")
    page.keyboard.press("Enter")
    expect(answer(page)).to_have_text("first")
    page.keyboard.press("Control+Shift+KeyY")
    expect(replies(page).locator(".versions-count")).to_have_text("2/2")
    page.keyboard.press("ArrowUp")
    expect(page.get_by_label("Edit your message")).to_be_focused()
    page.keyboard.press("Escape")
    page.keyboard.press("Control+Shift+KeyO")
    expect(replies(page)).to_have_count(0)
    page.keyboard.type("forever")
    page.keyboard.press("Enter")
    expect(answer(page)).to_contain_text("on and")
    page.keyboard.press("Escape")
    expect(replies(page).locator(".note")).to_have_text("Stopped.")
    page.keyboard.press("Control+KeyK")
    expect(page.get_by_label("Search conversations")).to_be_focused()
    page.keyboard.type("first")
    expect(page.locator(".item")).to_have_count(1)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(answer(page)).to_contain_text("first")


def test_on_a_phone(open_page: Callable[..., Page]) -> None:
    page = open_page(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    ask(page, "markdown")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert replies(page).bounding_box()["width"] <= 360  # type: ignore[index]
    expect(page.get_by_role("navigation", name="Conversations")).not_to_be_in_viewport()
    page.get_by_role("button", name="Show conversations").click()
    expect(page.get_by_role("navigation", name="Conversations")).to_be_in_viewport()


def test_in_traditional_chinese(open_page: Callable[..., Page], service: PageService) -> None:
    page = open_page(locale="zh-TW")
    assert page.evaluate("document.documentElement.lang") == "zh-TW"
    field = page.locator("#question")
    field.fill("chinese")
    field.press("Enter")
    expect(answer(page)).to_contain_text("判別式")
    expect(answer(page).locator("strong").first).to_have_text("「一元二次方程式」")
    assert page.locator("text=Send").count() == 0
    assert service.asked[-1].messages[-1].text == "chinese"


def test_every_word_is_there_in_both_languages(page: Page) -> None:
    keys = page.evaluate(
        """async () => {
            const [en, zh] = await Promise.all(['en', 'zh-TW'].map(l => import(`/page/js/words/${l}.js`)));
            const bare = words => [...new Set(Object.keys(words).map(k => k.replace(/_(one|other)$/, '')))].sort();
            return [bare(en.default), bare(zh.default)];
        }"""
    )
    assert keys[0] == keys[1]


def test_settings_reach_the_model_and_wrong_ones_are_told(page: Page, service: PageService) -> None:
    page.keyboard.press("Control+,")
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Temperature").fill("0.3")
    page.get_by_label("Most tokens").fill("55")
    page.keyboard.press("Escape")
    ask(page, "echo x")
    asked = service.asked[-1]
    assert asked.messages[0].text == "Be brief."
    assert (asked.params.temperature, asked.params.max_tokens) == (0.3, 55)


def test_json_and_calls_are_shown_readably(page: Page, service: PageService) -> None:
    page.keyboard.press("Control+,")
    page.get_by_label("Functions that the model may call").fill(
        '[{"name": "weather", "description": "x", "parameters": {"type": "object", "properties": {}}}]'
    )
    page.keyboard.press("Escape")
    ask(page, "tool")
    expect(replies(page)).to_contain_text("Calls weather")
    expect(replies(page)).to_contain_text("Oslo")
    page.get_by_label("Result of weather").fill("rain")
    page.get_by_role("button", name="Send results").click()
    expect(replies(page).last.locator(".message-foot .stats")).to_be_attached()
    assert service.asked[-1].messages[-1].role == "tool"
    assert service.asked[-1].messages[-1].text == "rain"


def test_installable_as_an_app(page: Page, url: str) -> None:
    address = page.evaluate("document.querySelector('link[rel=manifest]').href")
    manifest = page.evaluate("a => fetch(a).then(r => r.json())", address)
    assert manifest["display"] == "standalone"
    assert {icon["sizes"] for icon in manifest["icons"]} >= {"192x192", "512x512"}
    for icon in manifest["icons"]:
        place = urljoin(address, icon["src"])
        assert page.evaluate("p => fetch(p).then(r => r.status)", place) == 200
    worker = page.evaluate("fetch('/page/sw.js').then(r => r.status)")
    assert worker == 200


def test_as_an_app_it_opens_without_the_server(contexts: Callable[..., BrowserContext], service: PageService) -> None:
    page = contexts(service_workers="allow").new_page()
    with running_server(service, MODEL) as url:
        page.goto(url)
        page.evaluate("navigator.serviceWorker.ready")
        ask(page, "echo **kept** $x$")
    page.reload()
    expect(answer(page).locator("strong")).to_have_text("kept")
    expect(answer(page).locator(".katex")).to_be_visible()
    expect(page.locator("#offline")).to_be_visible()
    page.get_by_label("Your message", exact=True).fill("anyone there?")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator(".toast")).to_contain_text("was not sent")
    expect(page.get_by_label("Your message", exact=True)).to_have_value("anyone there?")
