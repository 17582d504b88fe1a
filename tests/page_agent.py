"""Runs of the agent for tests of the page: what a model does at best and at worst, with tools that only look real."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.agent_samples import looks, text_tool
from agent.scripted_endpoint import Reply, Step, finish
from agent.service_samples import service_of
from deepground.agent.service import AgentService
from deepground.agent.tools import Tool, ToolContext, ToolResult
from deepground.agent.tools.ask import ask_tool
from deepground.agent.tools.todo import todo_tool

DIFF = """diff --git a/lamp.py b/lamp.py
index 1..2 100644
--- a/lamp.py
+++ b/lamp.py
@@ -1,3 +1,3 @@
 def light(room):
-    return room.lamp.is_off
+    return room.lamp.is_on
 def dark(room):
diff --git a/notes.md b/notes.md
new file mode 100644
--- /dev/null
+++ b/notes.md
@@ -0,0 +1,2 @@
+# Notes
+--- a rule, not a header
--- a/old.txt
+++ /dev/null
@@ -1 +0,0 @@
-gone
\\ No newline at end of file
"""
HOSTILE = "<img src=x onerror=window.pwned=1><script>window.pwned=2</script>"
PAGE = f"""<!doctype html><title>Trip</title><style>h1 {{ color: rgb(1, 2, 3) }}</style>
<h1>Three days in Tainan</h1><p>Day 1: temples.</p><script>parent.pwned = 3; document.title = "ran"</script>
<img src="https://tracker.invalid/x.png"><a href="https://tracker.invalid/" target="_top">out</a>
<form action="https://tracker.invalid/"></form>{HOSTILE}
"""


def calls(*made: tuple[str, Mapping[str, Any]], thinking: str = "", text: str = "") -> Reply:
    """A reply with calls."""
    return Reply(text=text, reasoning=thinking, calls=tuple((name, dict(given)) for name, given in made))


def plan(*statuses: str) -> tuple[str, dict[str, Any]]:
    """The call that writes the plan."""
    tasks = ("Look at the lamp", "Put the wrong line right", "Run the tests")
    return "todo", {"items": [{"task": task, "status": s} for task, s in zip(tasks, statuses, strict=True)]}


EDIT = {"path": "lamp.py", "old": "    return room.lamp.is_off\n", "new": "    return room.lamp.is_on\n"}
GOOD_RUN: list[Step] = [
    calls(plan("doing", "open", "open"), ("shell", {"command": "cat lamp.py\npytest -q"}),
          thinking="The test says that the light is off. I look at the **lamp** first."),
    calls(plan("done", "doing", "open"), ("edit_file", EDIT), text="The comparison is the wrong way round."),
    calls(("run_tests", {}), ("make_files", {})),
    calls(plan("done", "done", "done")),
    finish("The light is on: `light` returned **is_off**. I changed one line, and the tests pass."),
]  # fmt: skip


def page_tools() -> tuple[Tool, ...]:
    """Tools that answer at once."""

    def shell(command: str) -> str:
        if command.startswith("sleep"):
            time.sleep(float(command.removeprefix("sleep ")))
        if command == "hostile":
            return HOSTILE
        return "\n".join([f"$ {command}", *(f"line {n}" for n in range(1, 41))])

    def make_files(arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        del arguments
        made = {"plan.md": "# Plan\n\n- **Tainan**", "plan.json": '{"days":3}', "page.html": PAGE, "plan.ics": "BEGIN"}
        for name, content in made.items():
            (context.artifacts / name).write_text(content)
        return ToolResult(content="made 4 files", files=tuple(context.artifacts / name for name in made))

    anything = {"type": "object"}
    files = Tool(name="make_files", description="x", parameters=anything, effect="repeatable", run=make_files)
    return (
        text_tool("shell", shell, effect="once"),
        text_tool("edit_file", lambda path, **_: f"edited {path}", effect="once"),
        text_tool("run_tests", lambda: "3 passed"),
        looks(), files, todo_tool(), ask_tool(),
    )  # fmt: skip


@contextmanager
def page_agent(script: list[Step], runs: Path, **settings: Any) -> Iterator[AgentService]:
    """A service for the page."""
    with service_of(script, runs, *page_tools(), **settings) as service:
        yield service
