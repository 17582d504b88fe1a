"""Conversations by hand: send, stream, stop, again, edit, branch, reload."""

from __future__ import annotations

import json
from pathlib import Path

from playwright.sync_api import Page, expect

from page_fakes import PageService
from page_steps import answer, ask, questions, replies, wait_for_end
from server_fakes import wait_until


def test_a_reply_streams_with_thinking_markdown_and_speed(page: Page) -> None:
    ask(page, "markdown", wait=False)
    wait_for_end(page)
    body = answer(page)
    expect(body.locator("strong")).to_have_text("quadratic formula")
    expect(body.locator("h4")).to_have_text("In code")
    expect(body.locator("table td").first).to_be_visible()
    expect(body.locator(".katex").first).to_be_visible()
    expect(body.locator(".hl-keyword").first).to_have_text("import")
    expect(body.locator('a[href="https://en.wikipedia.org/wiki/Quadratic_formula"]')).to_have_attribute(
        "rel", "noopener noreferrer nofollow"
    )
    expect(replies(page).locator(".thinking summary")).to_contain_text("Thought for")
    expect(replies(page).locator(".stats")).to_contain_text("pilot")
    expect(replies(page).locator(".stats")).to_contain_text("tokens/s")
    expect(replies(page).locator(".stats")).to_contain_text("first token after")


def test_thinking_is_open_while_it_goes_on_and_text_grows(page: Page, service: PageService) -> None:
    service.pace_s = 0.03
    try:
        ask(page, "slow one two three four five", wait=False)
        expect(replies(page).locator(".thinking[open] summary")).to_contain_text("Thinking…")
        expect(answer(page)).to_contain_text("one")
        assert "five" not in answer(page).inner_text()
        expect(replies(page).locator(".thinking")).not_to_have_attribute("open", "")
        wait_for_end(page)
    finally:
        service.pace_s = 0
    expect(answer(page)).to_have_text("one two three four five")
    replies(page).locator(".thinking summary").click()
    expect(replies(page).locator(".thinking-text")).to_contain_text("check it with an example")


def test_the_end_stays_in_view_until_the_reader_goes_up(page: Page) -> None:
    left = "(e => e.scrollHeight - e.clientHeight - e.scrollTop)(document.querySelector('#transcript'))"
    for _ in range(3):
        ask(page, "markdown")
        page.wait_for_function(f"{left} < 2", timeout=2000)
    page.locator("#transcript").hover()
    page.mouse.wheel(0, -400)
    expect(page.locator("#to-latest")).to_be_visible()
    before = page.evaluate("document.querySelector('#transcript').scrollTop")
    page.wait_for_timeout(200)
    assert page.evaluate("document.querySelector('#transcript').scrollTop") == before
    page.locator("#to-latest").click()
    page.wait_for_function(f"{left} < 2", timeout=2000)


def test_stop_ends_the_computation_and_keeps_the_text(page: Page, service: PageService) -> None:
    before = service.aborted
    ask(page, "forever", wait=False)
    expect(answer(page)).to_contain_text("on and on")
    page.get_by_role("button", name="Stop", exact=True).click()
    wait_for_end(page)
    expect(replies(page).locator(".note")).to_have_text("Stopped.")
    wait_until(lambda: service.aborted == before + 1)
    page.reload()
    expect(answer(page)).to_contain_text("on and on")


def test_regenerate_edit_and_the_way_back(page: Page, service: PageService) -> None:
    ask(page, "first question")
    first = answer(page).inner_text()
    page.get_by_role("button", name="Answer again").click()
    expect(replies(page).locator(".versions-count")).to_have_text("2/2")
    second = answer(page).inner_text()
    assert first != second
    page.get_by_role("button", name="Earlier version").click()
    expect(answer(page)).to_have_text(first)

    questions(page).hover()
    page.get_by_role("button", name="Edit", exact=True).click()
    page.get_by_label("Edit your message").fill("echo changed")
    page.locator(".edit-form").get_by_role("button", name="Send").click()
    wait_for_end(page)
    expect(answer(page)).to_have_text("changed")
    assert [m.text for m in service.asked[-1].messages] == ["echo changed"]
    questions(page).get_by_role("button", name="Earlier version").click()
    expect(answer(page)).to_have_text(second)  # The newest answer below it.


def test_branch_copies_the_path_and_leaves_the_old_one(page: Page) -> None:
    ask(page, "echo one")
    ask(page, "echo two")
    replies(page).first.get_by_role("button", name="Continue from here in a new conversation").click()
    expect(page.locator(".item")).to_have_count(2)
    expect(replies(page)).to_have_count(1)
    ask(page, "echo three")
    page.locator(".item a").nth(1).click()
    expect(replies(page)).to_have_count(2)
    expect(answer(page)).to_have_text("two")


def test_reload_keeps_the_conversation_and_its_address(page: Page) -> None:
    ask(page, "echo **kept**")
    address = page.url
    assert "#/c/" in address
    page.reload()
    expect(answer(page).locator("strong")).to_have_text("kept")
    page.get_by_role("button", name="New conversation").first.click()
    expect(replies(page)).to_have_count(0)
    page.go_back()
    expect(answer(page)).to_have_text("kept")


def test_a_reply_that_a_reload_cut_off_says_so(page: Page) -> None:
    ask(page, "forever", wait=False)
    expect(answer(page)).to_contain_text("on and")
    page.wait_for_timeout(1300)
    page.reload()
    expect(answer(page)).to_contain_text("on and")
    expect(replies(page).locator(".note")).to_have_text("This reply was interrupted.")


def test_a_reply_goes_on_while_another_conversation_is_read(page: Page) -> None:
    words = " ".join("abcdefghijklmnopqrstuvwxyz")
    ask(page, f"slow {words} {words}", wait=False)
    expect(answer(page)).to_contain_text("a")
    page.get_by_role("button", name="New conversation").first.click()
    ask(page, "echo other")
    expect(page.locator(".item.is-running")).to_have_count(1)
    expect(page.locator(".item.is-running")).to_have_count(0, timeout=60_000)
    page.locator(".item a", has_text="slow a b").click()
    expect(answer(page)).to_have_text(f"{words} {words}")


def test_a_failure_in_the_stream_is_told_and_can_be_tried_again(page: Page) -> None:
    ask(page, "fail")
    expect(answer(page)).to_have_text("one")
    expect(replies(page).get_by_role("alert")).to_contain_text("The server says")
    page.get_by_role("button", name="Try again").click()
    expect(replies(page).locator(".versions-count")).to_have_text("2/2")


def test_search_rename_and_delete(page: Page) -> None:
    for text in ("echo the walrus", "echo the carpenter"):
        page.get_by_role("button", name="New conversation").first.click()
        ask(page, text)
    page.get_by_label("Search conversations").fill("WALRUS the")
    expect(page.locator(".item")).to_have_count(1)
    page.get_by_label("Search conversations").fill("check example")  # Stands in the thinking of both.
    expect(page.locator(".item")).to_have_count(2)
    expect(page.locator(".item-hit").first).to_contain_text("check it")
    page.get_by_label("Search conversations").fill("nowhere")
    expect(page.locator("#history")).to_contain_text("Nothing found")
    page.get_by_label("Search conversations").fill("")
    page.locator("#conversation-menu").click()
    page.get_by_role("menuitem", name="Rename").click()
    page.get_by_label("Title").fill("Renamed")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#title")).to_have_text("Renamed")
    page.locator("#conversation-menu").click()
    page.get_by_role("menuitem", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator(".item")).to_have_count(1)
    expect(replies(page)).to_have_count(0)


def test_export_and_import(page: Page, tmp_path: Path) -> None:
    ask(page, "markdown")
    page.locator("#conversation-menu").click()
    with page.expect_download() as markdown:
        page.get_by_role("menuitem", name="Export as Markdown").click()
    text = Path(markdown.value.path()).read_text("utf-8")
    assert markdown.value.suggested_filename == "markdown.md"
    assert "## You\n\nmarkdown" in text
    assert "def solve" in text
    assert "<summary>Thinking</summary>" in text

    page.locator("#conversation-menu").click()
    with page.expect_download() as exported:
        page.get_by_role("menuitem", name="Export as JSON").click()
    file = tmp_path / "conversations.json"
    exported.value.save_as(file)
    data = json.loads(file.read_text("utf-8"))
    assert data["format"] == "deepground-conversations"
    assert [m["role"] for m in data["conversations"][0]["messages"]] == ["user", "assistant"]

    page.locator("#import-picker").set_input_files(file)
    expect(page.locator(".item")).to_have_count(2)
    page.locator(".item a").last.click()
    expect(answer(page).locator("strong")).to_have_text("quadratic formula")
    rubbish = tmp_path / "rubbish.json"
    rubbish.write_text('{"format": "deepground-conversations", "version": 1, "conversations": [{"messages": [3]}]}')
    page.locator("#import-picker").set_input_files(rubbish)
    expect(page.locator(".toast")).to_contain_text(["imported", "holds no conversations"])


def test_a_text_file_goes_along_and_others_are_refused(page: Page, service: PageService, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("alpha\nbeta")
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"\x89PNG\0\0")
    page.locator("#file-picker").set_input_files([notes, picture])
    expect(page.locator(".chip")).to_have_count(1)
    expect(page.locator(".toast")).to_have_text("picture.png is not a text file.")
    ask(page, "read it")
    said = service.asked[-1].messages[-1].text
    assert said == "[file name]: notes.txt\n[file content begin]\nalpha\nbeta\n[file content end]\nread it"
    page.reload()
    page.locator(".file summary").click()
    expect(page.locator(".file pre")).to_have_text("alpha\nbeta")


def test_copy_buttons(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    ask(page, "markdown")
    page.get_by_role("button", name="Copy code").click()
    assert page.evaluate("navigator.clipboard.readText()").startswith("import math\n\ndef solve")
    replies(page).locator(".message-foot").get_by_role("button", name="Copy").click()
    page.wait_for_timeout(50)
    assert page.evaluate("navigator.clipboard.readText()").startswith("The **quadratic formula**")
