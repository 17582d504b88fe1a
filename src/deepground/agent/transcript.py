"""A run as a page for reading: one HTML file that holds everything and loads nothing."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from deepground.agent.trajectory import Event

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.45 ui-monospace, monospace; margin: .3rem 0; }
section { border-left: 3px solid #8888; padding: .1rem 0 .1rem .8rem; margin: .8rem 0; }
section.error { border-color: #c33; } section.passed { border-color: #2a2; } section.failed { border-color: #c80; }
h1 { font-size: 1.3rem; } h2 { font-size: .95rem; margin: 0; } small, .thinking { color: #777; }
.add { color: #2a2; } .del { color: #c33; }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def transcript_page(events: Sequence[Event]) -> str:
    """The page; whatever a model or tool wrote is text in it."""
    start = events[0] if events else {}
    title = html.escape(str(start.get("task", "A run")))
    body = "\n".join(part for event in events if (part := _part(event)))
    return (
        '<!doctype html>\n<html><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n{_head(start)}\n{body}\n"
        "</body></html>\n"
    )


def _head(start: Event | dict[str, Any]) -> str:
    if "time" not in start:
        return ""
    when = datetime.fromtimestamp(start["time"], UTC).strftime("%Y-%m-%d %H:%M UTC")
    facts = [str(start.get("run_id", "")), when, str(start.get("workspace") or "")]
    return f"<small>{html.escape(' · '.join(fact for fact in facts if fact))}</small>"


def _part(event: Event) -> str:
    match event["type"]:
        case "message":
            return _section(event["message"]["role"], event["message"]["content"])
        case "model_reply":
            return _reply(event["message"])
        case "tool_call":
            arguments = event["arguments"]
            return _section(f"{event['name']}", _readable(arguments))
        case "tool_result":
            kind = "error" if event["is_error"] else ""
            return _section(f"{event['name']} → {event['seconds']:.1f} s", event["content"], kind)
        case "approval_request":
            return _section(f"asked: may {event['name']} run?", event["text"])
        case "approval":
            return _section("approved" if event["approved"] else "not approved", "")
        case "question":
            return _section("question", event["question"])
        case "answer":
            return _section("answer", event["answer"] or "(nobody was there)")
        case "check":
            verdict = "passed" if event["passed"] else "failed"
            return _section(f"check {event['name']}: {verdict}", event["report"], verdict)
        case "attempt":
            return _section(f"attempt {event['number']}", event["why"])
        case "compaction":
            return _section("shortened", event["summary"])
        case "run_resumed":
            return _section("resumed", event.get("said", ""))
        case "run_ended":
            return _ended(event)
    return ""


def _reply(message: dict[str, Any]) -> str:
    parts = []
    if thinking := message.get("reasoning_content"):
        parts.append(f'<section><h2>thinking</h2><pre class="thinking">{html.escape(thinking)}</pre></section>')
    if message["content"]:
        parts.append(_section("assistant", message["content"]))
    return "\n".join(parts)


def _ended(event: Event) -> str:
    spent = event["spent"]
    facts = f"{spent['steps']} steps, {spent['tool_calls']} calls, {spent['tokens']} tokens, {spent['seconds']:.1f} s"
    kind = "passed" if event["status"] == "completed" else "failed"
    answer = event["answer"] if event["data"] is None else json.dumps(event["data"], ensure_ascii=False, indent=2)
    parts = [_section(f"{event['status']}: {event['reason']}", f"{answer}\n\n{facts}".strip(), kind)]
    if event.get("diff"):
        lines = [_diff_line(line) for line in event["diff"].split("\n")]
        parts.append(f"<section><h2>changes</h2><pre>{'<br>'.join(lines)}</pre></section>")
    if event["files"]:
        parts.append(_section("files", "\n".join(event["files"])))
    return "\n".join(parts)


def _diff_line(line: str) -> str:
    kind = "add" if line.startswith("+") else "del" if line.startswith("-") else ""
    return f'<span class="{kind}">{html.escape(line)}</span>' if kind else html.escape(line)


def _section(title: str, text: str, kind: str = "") -> str:
    body = f"<pre>{html.escape(text)}</pre>" if text else ""
    return f'<section class="{kind}"><h2>{html.escape(title)}</h2>{body}</section>'


def _readable(arguments: dict[str, Any]) -> str:
    """Texts as they are, so that code in them can be read."""
    return "\n".join(
        f"{name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in arguments.items()
    )
