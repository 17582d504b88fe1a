"""The list that the model keeps of what there is to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepground.agent.tools.protocol import Tool, ToolContext, ToolResult

_MARKS = {"open": "[ ]", "doing": "[>]", "done": "[x]"}


def todo_tool() -> Tool:
    """Replaces the whole list; the loop reads it from the call's data."""
    return Tool(
        name="todo",
        description="Write your list of steps, whole, for a task of several steps; keep it up to date.",
        parameters={
            "type": "object",
            "properties": {
                "items": {
                    "type": "array",
                    "maxItems": 50,
                    "items": {
                        "type": "object",
                        "properties": {"task": {"type": "string"}, "status": {"enum": list(_MARKS)}},
                        "required": ["task", "status"],
                    },
                }
            },
            "required": ["items"],
        },
        effect="repeatable",
        run=_run,
    )


def _run(arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
    del context
    items = [{"task": str(item["task"]), "status": str(item["status"])} for item in arguments["items"]]
    lines = [f"{_MARKS[item['status']]} {item['task']}" for item in items]
    return ToolResult(content="\n".join(lines) or "(empty list)", data={"todo": items})
