"""The agent's view in Chromium: given a task, watched, allowed, denied, asked, stopped, resumed; and hostile words."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from agent.scripted_endpoint import Raw, Reply, Step, finish
from deepground.agent.service import AgentService
from deepground.server import KeyStore, bind, url_of
from page_agent import DIFF, GOOD_RUN, HOSTILE, calls, page_agent
from page_axe import faults
from page_fakes import PageService
from server_fakes import MODEL, running_server, serving

OpenPage = Callable[..., Page]
SERVED = replace(MODEL, name="pilot")
BLOCKED = ("Blocked script execution", "violates the following Content Security Policy")
CUT_OFF = ("ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE")


@contextmanager
def agent_at(
    script: list[Step], runs: Path, *, keys: Any = None, **settings: Any
) -> Iterator[tuple[str, AgentService]]:
    with (
        page_agent(script, runs, **settings) as agent,
        running_server(PageService(), SERVED, agent=agent, keys=keys) as url,
    ):
        yield url, agent


def give(page: Page, task: str, *, ask_first: bool = False) -> None:
    page.get_by_role("textbox", name="Task").fill(task)
    if ask_first:
        page.get_by_label("Ask me before changes").check()
    page.get_by_role("button", name="Start").click()


def tool(page: Page, name: str) -> Locator:
    return page.locator(".tool", has=page.locator(f".tool-name:text-is('{name}')"))


def outcome(page: Page) -> Locator:
    return page.locator(".outcome")


def status(page: Page) -> Locator:
    return page.locator("#agent-foot .status")


def test_hidden_where_the_server_has_no_agent_and_told_how_when_asked(open_page: OpenPage, url: str) -> None:
    page = open_page()
    expect(page.locator("#model")).to_be_enabled()
    expect(page.get_by_role("link", name="Agent")).to_have_count(0)
    page.goto(f"{url}/#/agent")
    expect(page.get_by_role("heading", name="The agent is not switched on")).to_be_visible()
    expect(page.locator(".agent-off")).to_contain_text("deepground serve --agent")
    page.goto(f"{url}/#/")
    expect(page.get_by_label("Your message", exact=True)).to_be_visible()


def test_a_run_from_the_task_to_its_files(open_page: OpenPage, tmp_path: Path) -> None:
    workspace = tmp_path / "lamp"
    with agent_at(GOOD_RUN, tmp_path / "runs", diff=DIFF, workspaces=(workspace,)) as (url, _):
        page = open_page(at=url, allowed=BLOCKED)
        page.get_by_role("link", name="Agent").click()
        expect(page.get_by_role("textbox", name="Task")).to_be_focused()
        expect(page.get_by_role("button", name="Start")).to_be_disabled()
        page.get_by_label("Folder to work in").select_option(str(workspace))
        give(page, "Turn the light on.\nAnd write down why.")
        expect(outcome(page)).to_contain_text("Done and checked")
        expect(outcome(page)).to_contain_text("Checked: the light is on")
        expect(outcome(page).locator("strong")).to_have_text("is_off")
        expect(page.locator("#title")).to_have_text("Turn the light on.")
        expect(page.locator(".run-place")).to_have_text(str(workspace))
        assert re.search(r"#/agent/[\w-]+$", page.url)
        # The plan, the steps and the budget.
        expect(page.locator(".plan-item[data-status=done]")).to_have_count(3)
        expect(page.locator(".step")).to_have_count(5)
        expect(page.locator(".budget")).to_contain_text("5 of 50")
        # A step in full: thinking folded, input as what it is, a long result shown in part.
        thinking = page.locator(".step").first.locator(".thinking")
        expect(thinking.locator("strong")).to_have_count(0)
        thinking.locator("summary").click()
        expect(thinking.locator("strong")).to_have_text("lamp")
        shell = tool(page, "Runs a command")
        expect(shell.locator(".tool-body")).to_be_hidden()
        shell.locator("summary").click()
        expect(shell.locator(".code code")).to_have_text("cat lamp.py\npytest -q")
        expect(shell.locator(".output")).not_to_contain_text("line 40")
        shell.get_by_role("button", name="Show all 42 lines").click()
        expect(shell.locator(".output")).to_contain_text("line 40")
        edit = tool(page, "Edits a file")
        edit.locator("summary").click()
        expect(edit.locator(".diff-del")).to_have_text("-    return room.lamp.is_off")
        # What was changed, by file.
        expect(outcome(page).locator(".diff-name")).to_have_text(["lamp.py", "notes.md", "old.txt"])
        expect(outcome(page).locator(".diff-count")).to_have_text(["+1", "−1", "+2", "−1"])
        expect(outcome(page).locator(".diff-file").nth(1).locator(".diff-add")).to_have_count(2)
        _look_at_files(page)


def _look_at_files(page: Page) -> None:
    expect(page.locator(".made-file")).to_have_count(4)
    page.locator(".made-open", has_text="plan.md").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("li strong")).to_have_text("Tainan")
    page.keyboard.press("Escape")
    page.locator(".made-open", has_text="plan.json").click()
    expect(dialog.locator("code")).to_have_text('{\n  "days": 3\n}')
    page.keyboard.press("Escape")
    page.locator(".made-open", has_text="page.html").click()
    frame = dialog.locator("iframe")
    expect(frame).to_have_attribute("sandbox", "")
    inside = frame.content_frame.locator("h1")
    expect(inside).to_have_text("Three days in Tainan")
    expect(inside).to_have_css("color", "rgb(1, 2, 3)")
    assert page.evaluate("window.pwned") is None
    page.keyboard.press("Escape")
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save plan.ics").click()
    assert (saved.value.suggested_filename, saved.value.path().read_text()) == ("plan.ics", "BEGIN")
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save all").click()
    assert zipfile.ZipFile(saved.value.path()).namelist() == ["page.html", "plan.ics", "plan.json", "plan.md"]


def test_allow_deny_and_answer(open_page: OpenPage, tmp_path: Path) -> None:
    script: list[Step] = [
        calls(("shell", {"command": "make all"})),
        calls(("shell", {"command": "rm -rf /"})),
        calls(("ask", {"question": "Which lamp?", "options": ["left", "right"]})),
        calls(("ask", {"question": "Why?"})),
        finish("on"),
    ]
    with agent_at(script, tmp_path) as (url, _):
        page = open_page(at=f"{url}/#/agent")
        give(page, "x", ask_first=True)
        asked = page.locator(".asked")
        expect(asked).to_contain_text("May the agent do this?")
        expect(asked.locator("code")).to_have_text("make all")
        expect(asked).to_contain_text("counts as no in 15 minutes")
        expect(page.locator(".run-item")).to_contain_text("Waits for you")
        page.get_by_role("button", name="Allow").click()
        expect(asked.locator("code")).to_have_text("rm -rf /")
        page.reload()  # What is asked is asked again.
        expect(asked.locator("code")).to_have_text("rm -rf /")
        page.get_by_role("button", name="Deny").click()
        expect(asked).to_contain_text("Which lamp?")
        asked.get_by_role("button", name="right").click()
        expect(asked).to_contain_text("Why?")
        asked.get_by_label("Your answer").fill("because")
        page.keyboard.press("Enter")
        expect(outcome(page)).to_contain_text("Done and checked")
        expect(asked).to_have_count(0)
        states = page.locator(".tool[data-state]").evaluate_all("all => all.map(e => e.dataset.state)")
        assert states == ["done", "denied", "done", "done", "done"]
        tool(page, "Asks you").last.locator("summary").click()
        expect(tool(page, "Asks you").last).to_contain_text("because")


def test_reload_in_the_middle_stop_and_resume(open_page: OpenPage, tmp_path: Path) -> None:
    chunk = 'data: {"choices": [{"index": 0, "delta": {"%s": "%s"}}]}\n\n'
    half = chunk % ("reasoning_content", "hm, hm") + chunk % ("content", "I look at **the lamp** and")
    script: list[Step] = [
        calls(("shell", {"command": "make"}), thinking="first"),
        Raw(half.encode(), then_stall=4.0),
        calls(("look", {})),
        finish("on"),
    ]
    with agent_at(script, tmp_path) as (url, _):
        page = open_page(at=f"{url}/#/agent")
        give(page, "Look at it")
        now = page.locator(".step.is-now")
        expect(now.locator(".step-text")).to_contain_text("the lamp")
        expect(status(page)).to_have_text("At work")
        page.reload()
        expect(page.locator(".step")).to_have_count(2)
        expect(now.locator(".step-text")).to_have_text("I look at the lamp and")
        expect(now.locator(".thinking")).to_be_visible()
        page.get_by_role("button", name="Stop").click()
        expect(outcome(page)).to_contain_text("Stopped by you")
        expect(status(page)).to_have_text("Stopped by you")
        page.get_by_role("button", name="Resume").click()
        expect(outcome(page)).to_contain_text("Done and checked")
        expect(page.locator(".step-note[data-what=resumed]")).to_have_count(1)
        page.get_by_role("button", name="Start over").click()
        expect(page.get_by_role("textbox", name="Task")).to_have_value("Look at it")


def test_resumed_after_the_server_was_started_anew(open_page: OpenPage, tmp_path: Path) -> None:
    sock = bind("127.0.0.1", 0)
    port = sock.getsockname()[1]
    url = url_of(sock)
    script = [calls(("shell", {"command": "make"}))]
    with page_agent(script, tmp_path) as agent, serving(PageService(), sock, SERVED, agent=agent):
        page = open_page(at=f"{url}/#/agent", allowed=CUT_OFF)
        give(page, "Build it", ask_first=True)
        expect(page.locator(".asked")).to_be_visible()
    expect(page.locator("#agent-foot")).to_contain_text("Trying again")
    sock = bind("127.0.0.1", port)
    with page_agent([finish("built")], tmp_path) as agent, serving(PageService(), sock, SERVED, agent=agent):
        # The page finds the server again by itself.
        expect(outcome(page)).to_contain_text("Interrupted", timeout=15_000)
        expect(page.locator(".run-item")).to_contain_text("Interrupted")
        page.get_by_role("button", name="Resume").click()
        expect(page.locator(".asked code")).to_have_text("make")
        page.get_by_role("button", name="Allow").click()
        expect(outcome(page)).to_contain_text("Done and checked")
        expect(outcome(page)).to_contain_text("built")


def test_earlier_runs_are_listed_and_can_be_removed(open_page: OpenPage, tmp_path: Path) -> None:
    with agent_at([finish("one"), finish("two")], tmp_path) as (url, agent):
        page = open_page(at=f"{url}/#/agent", allowed=("404",))
        for task in ("First task", "Second task"):
            give(page, task)
            expect(outcome(page)).to_be_visible()
            page.get_by_role("button", name="New task").first.click()
        expect(page.locator(".run-item .item-title")).to_have_text(["Second task", "First task"])
        page.locator(".run-item a").last.click()
        expect(outcome(page)).to_contain_text("one")
        page.keyboard.press("ArrowUp")
        page.keyboard.press("Enter")
        expect(outcome(page)).to_contain_text("two")
        page.get_by_role("button", name="More about Second task").click()
        page.get_by_role("menuitem", name="Delete").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        expect(page.locator(".run-item")).to_have_count(1)
        expect(page.get_by_role("textbox", name="Task")).to_be_visible()
        assert len(agent.runs_of("local")) == 1
        page.goto(f"{url}/#/agent/20260101-000000-abcdef")
        expect(page.locator(".toast").last).to_contain_text("no such task")


def test_hostile_words_stay_words(contexts: Callable[..., BrowserContext], tmp_path: Path) -> None:
    script: list[Step] = [
        Reply(
            text=HOSTILE, reasoning=HOSTILE,
            calls=(("shell", {"command": "hostile"}), (f"<b>{HOSTILE}</b>", {HOSTILE: HOSTILE}), ("look", HOSTILE)),
        ),
        calls(("todo", {"items": [{"task": HOSTILE, "status": "doing"}]})),
        calls(("ask", {"question": HOSTILE, "options": [HOSTILE]})),
        finish(f"{HOSTILE} [x](javascript:window.pwned=9)"),
    ]  # fmt: skip
    diff = f"--- a/{HOSTILE}\n+++ b/{HOSTILE}\n@@ -1 +1 @@\n-{HOSTILE}\n+{HOSTILE}\n"
    with agent_at(script, tmp_path, diff=diff) as (url, _):
        context = contexts()
        asked_for: list[str] = []
        context.on("request", lambda request: asked_for.append(request.url))
        page = context.new_page()
        page.goto(f"{url}/#/agent")
        give(page, HOSTILE)
        expect(page.locator(".asked-question")).to_have_text(HOSTILE)
        page.locator(".asked").get_by_role("button", name=HOSTILE).click()
        expect(outcome(page)).to_be_visible()
        for summary in page.locator(".tool > summary, .thinking > summary, .step-note summary").all():
            summary.click()
        expect(page.locator(".step .thinking-text").first).to_contain_text("onerror")
        expect(page.locator("#title")).to_contain_text("<img src=x")
        assert page.evaluate("window.pwned") is None
        assert page.locator("main img:not([src^='page/']), main script, main iframe, [onerror]").count() == 0
        assert [address for address in asked_for if not address.startswith(url)] == []


def test_keys_are_asked_for_and_have_their_own_runs(open_page: OpenPage, tmp_path: Path) -> None:
    keys = KeyStore(tmp_path / "keys.db")
    mine, _ = keys.create("mine")
    with agent_at(GOOD_RUN, tmp_path / "runs", keys=keys) as (url, agent):
        page = open_page(at=f"{url}/#/agent", allowed=(*BLOCKED, "401"))
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("API key", exact=True).fill(mine)
        dialog.get_by_role("button", name="Continue").click()
        give(page, "x")
        expect(outcome(page)).to_contain_text("Done and checked")
        assert (len(agent.runs_of("mine")), agent.runs_of("local")) == (1, [])
        page.locator(".made-open", has_text="page.html").click()
        expect(page.locator("iframe").content_frame.locator("h1")).to_have_text("Three days in Tainan")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1300, 390])
def test_axe_finds_no_serious_fault(open_page: OpenPage, tmp_path: Path, scheme: str, width: int) -> None:
    script = [*GOOD_RUN[:3], calls(("shell", {"command": "make"})), calls(("ask", {"question": "?", "options": ["a"]}))]
    with agent_at(script, tmp_path, diff=DIFF, workspaces=(tmp_path,)) as (url, _):
        page = open_page(
            at=f"{url}/#/agent", color_scheme=scheme, viewport={"width": width, "height": 800}, bypass_csp=True,
            reduced_motion="reduce",
        )  # fmt: skip
        expect(page.get_by_role("textbox", name="Task")).to_be_visible()
        assert faults(page) == []
        give(page, "x", ask_first=True)
        for _ in range(3):
            expect(page.locator(".asked code, .asked .diff")).to_be_visible()
            assert faults(page) == []
            before = page.locator(".asked").inner_text()
            page.get_by_role("button", name="Allow").click()
            expect(page.locator(".asked")).not_to_have_text(before)
        expect(page.locator(".asked-question")).to_be_visible()
        assert faults(page) == []
        page.get_by_role("button", name="Stop").click()
        expect(outcome(page)).to_be_visible()
        for summary in page.locator(".tool > summary").all():
            summary.click()
        assert faults(page) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_by_keyboard_alone_and_in_chinese(open_page: OpenPage, tmp_path: Path) -> None:
    with agent_at([calls(("shell", {"command": "make"})), finish("好")], tmp_path) as (url, _):
        page = open_page(at=f"{url}/#/agent", locale="zh-TW")
        expect(page.get_by_role("textbox", name="任務")).to_be_focused()
        page.keyboard.type("打開電燈")
        for _ in range(2):
            page.keyboard.press("Tab")
        expect(page.get_by_role("button", name="開始")).to_be_focused()
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Space")
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
        expect(page.locator(".asked")).to_contain_text("允許代理這樣做嗎？")
        page.get_by_role("button", name="允許", exact=True).focus()
        page.keyboard.press("Enter")
        expect(outcome(page)).to_contain_text("完成並通過檢查")
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("Control+Shift+KeyO")
        expect(page.get_by_role("textbox", name="任務")).to_be_focused()
