"""How a run of the agent looks in the terminal, and how its user is asked there."""

from __future__ import annotations

import json
import re
import select
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text

if TYPE_CHECKING:
    from deepground.agent.approval import ApprovalRequest
    from deepground.agent.trajectory import Event

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SHOWN_LINES = 6
_SHOWN_CHARACTERS = 600
_STATUS_STYLES = {"completed": "bold green", "cancelled": "yellow", "error": "bold red"}


def safe(text: str) -> str:
    """Text that cannot send the terminal commands."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


class RunView:
    """Shows events as they happen, or as they once did.

    Args:
        out: for the answer.
        aside: for everything else.
        whole: show results in full, and instructions too.
    """

    def __init__(self, out: Console, aside: Console, *, whole: bool = False) -> None:
        self._out = out
        self._aside = aside
        self._whole = whole
        self._streaming = ""
        self._streamed = False

    def __call__(self, event: Event) -> None:
        """One event."""
        if event["type"] == "delta":
            self._delta(event["kind"], event["text"])
            return
        self._end_stream()
        if show := getattr(self, f"_on_{event['type']}", None):
            show(event)

    def _delta(self, kind: str, text: str) -> None:
        if kind == "call":
            return
        if self._streaming != kind:
            self._end_stream()
            self._streaming = kind
        self._streamed = True
        style = "dim" if kind == "reasoning" else None
        self._aside.print(safe(text), style=style, end="", markup=False, emoji=False, soft_wrap=True)

    def _end_stream(self) -> None:
        if self._streaming:
            self._aside.print()
            self._streaming = ""

    def _on_run_started(self, event: Event) -> None:
        where = f" in {event['workspace']}" if event.get("workspace") else ""
        self._line(f"run {event['run_id']}{where}", "dim")
        if self._whole:
            self._line(f"task: {event['task']}", "bold")

    def _on_run_resumed(self, event: Event) -> None:
        self._line("the run goes on", "dim")
        if event.get("said"):
            self._line(f"user: {self._cut(event['said'])}", "cyan")

    def _on_message(self, event: Event) -> None:
        message = event["message"]
        if self._whole or event.get("why"):
            self._line(f"{message['role']}: {self._cut(message['content'])}", "cyan")

    def _on_model_reply(self, event: Event) -> None:
        if self._streamed:
            self._streamed = False
            return
        message = event["message"]
        if thinking := message.get("reasoning_content"):
            self._line(thinking, "dim")
        if message["content"]:
            self._line(message["content"], "")

    def _on_tool_call(self, event: Event) -> None:
        line = Text("● ", style="blue")
        line.append(event["name"], style="bold")
        line.append(f" {self._arguments(event['arguments'])}")
        self._aside.print(line, soft_wrap=True)

    def _on_tool_result(self, event: Event) -> None:
        if event["name"] == "finish" and not event["is_error"]:
            return
        style = "red" if event["is_error"] else "dim"
        self._line("\n".join(f"  {line}" for line in self._cut(event["content"]).split("\n")), style)

    def _on_approval(self, event: Event) -> None:
        self._line("  approved" if event["approved"] else "  not approved", "yellow")

    def _on_question(self, event: Event) -> None:
        self._line(f"? {event['question']}", "yellow")

    def _on_check(self, event: Event) -> None:
        mark, style = ("✓", "green") if event["passed"] else ("✗", "yellow")
        self._line(f"{mark} {self._cut(event['report'])}", style)

    def _on_attempt(self, event: Event) -> None:
        self._line(f"attempt {event['number']}, from the beginning: {event['why']}", "yellow")

    def _on_compaction(self, event: Event) -> None:
        self._line(f"(earlier steps shortened: {event['dropped']} messages)", "dim")

    def _on_run_ended(self, event: Event) -> None:
        spent = event["spent"]
        style = _STATUS_STYLES.get(event["status"], "bold yellow")
        self._line(f"{event['status']}: {event['reason']}", style)
        calls = f"{spent['steps']} steps, {spent['tool_calls']} calls"
        self._line(f"{calls}, {spent['tokens']:,} tokens, {spent['seconds']:.1f} s", "dim")
        if event.get("diff"):
            self._aside.print(Syntax(safe(event["diff"]), "diff", background_color="default", word_wrap=True))
        for file in event["files"]:
            self._line(file, "dim")
        if event["answer"]:
            answer = event["answer"] if event["data"] is None else json.dumps(event["data"], ensure_ascii=False)
            self._out.print(safe(answer), markup=False, emoji=False, highlight=False, soft_wrap=True)

    def _line(self, text: str, style: str) -> None:
        self._aside.print(Text(safe(text), style=style), soft_wrap=True)

    def _arguments(self, arguments: dict[str, Any]) -> str:
        if len(arguments) == 1:
            return self._cut(safe(str(next(iter(arguments.values())))))
        pairs = [
            f"{name}={self._cut(safe(json.dumps(value, ensure_ascii=False)))}" for name, value in arguments.items()
        ]
        return " ".join(pairs)

    def _cut(self, text: str) -> str:
        if self._whole:
            return text
        lines = text[:_SHOWN_CHARACTERS].rstrip("\n").split("\n")
        shown = lines[:_SHOWN_LINES]
        left = text.rstrip("\n").count("\n") + 1 - len(shown)
        if left > 0:
            shown.append(f"... ({left} more lines)")
        elif len(text) > _SHOWN_CHARACTERS:
            shown.append("...")
        return "\n".join(shown)


class TerminalUser:
    """Asks whoever sits at the terminal; stops waiting when the run is cancelled."""

    def __init__(self, console: Console, cancelled: threading.Event) -> None:
        self._console = console
        self._cancelled = cancelled

    def approve(self, request: ApprovalRequest) -> bool:
        """Whether a call may run; anything but a yes is a no."""
        self._console.print(Text(f"{request.tool}: {safe(request.text)}", style="yellow"), soft_wrap=True)
        return (self._ask("Run this? [y/N] ") or "").strip().lower() in {"y", "yes", "是", "好"}

    def answer(self, call_id: str, question: str, options: Sequence[str]) -> str | None:
        """The answer to a question, or the option whose number was given."""
        del call_id, question
        for number, option in enumerate(options, 1):
            self._console.print(Text(f"  {number}. {safe(option)}"))
        said = self._ask("> ")
        if said is not None and said.strip().isdigit() and 1 <= int(said) <= len(options):
            return options[int(said) - 1]
        return said

    def _ask(self, prompt: str) -> str | None:
        self._console.print(Text(prompt, style="yellow"), end="")
        while not self._cancelled.is_set():
            ready, _, _ = select.select([sys.stdin], [], [], 0.2)
            if ready:
                line = sys.stdin.readline()
                return line.rstrip("\n") if line else None
        return None


class Yes:
    """Approves everything that the rules ask about; answers no question."""

    def approve(self, request: ApprovalRequest) -> bool:
        """See `Human`."""
        del request
        return True

    def answer(self, call_id: str, question: str, options: Sequence[str]) -> str | None:
        """See `Human`."""
        del call_id, question, options
        return None
