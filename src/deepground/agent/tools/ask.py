"""The tool that asks the person who gave the task; the loop puts the question to them and waits for their answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepground.agent.tools.protocol import Tool, ToolContext, ToolFailure, ToolResult

NOBODY_THERE = (
    "Nobody is there to answer. Decide yourself: take the most likely meaning, and say in your answer what you assumed."
)


def ask_tool() -> Tool:
    """Asks; where nobody is there it says so at once."""
    return Tool(
        name="ask",
        description="Ask the user a question, only if the task cannot be done without the answer.",
        parameters={
            "type": "object",
            "properties": {
                "question": {"type": "string"},
                "options": {"type": "array", "items": {"type": "string"}, "maxItems": 9},
            },
            "required": ["question"],
        },
        effect="repeatable",
        run=_run,
    )


def _run(arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
    del arguments, context
    raise ToolFailure(NOBODY_THERE, kind="nobody")
