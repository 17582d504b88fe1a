"""The tool that looks for a pattern in the files of the workspace.

It runs in the sandbox: a pattern can take for ever, which only another process can be stopped from, and there no link
leads out of the workspace.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from deepground.agent.tools.commands import ending
from deepground.agent.tools.protocol import Tool, ToolContext, ToolFailure, ToolResult
from deepground.sandbox import Limits, Sandbox

_SECONDS = 20.0
_MOST = 100


def search_tool(sandbox: Sandbox, workspace: Path) -> Tool:
    """Finds lines by a regular expression, or files by their name alone."""
    program = files("deepground.agent.tools").joinpath("search_inside.py").read_text(encoding="utf-8")

    def run(arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        job = {"pattern": "", "path": ".", "glob": "", "most": _MOST, **arguments}
        limits = Limits(seconds=max(0.1, context.seconds_left(_SECONDS)), processes=8)
        result = sandbox.run(
            ["python3", "-I", "-c", program], workspace=workspace, limits=limits, stdin=json.dumps(job),
            writable=False, cancelled=context.cancelled,
        )  # fmt: skip
        if not result.ok:
            said = ending(result, limits) + result.stderr[-300:]
            raise ToolFailure(f"The search was not finished: {said}. Use a simpler pattern, or a path.", kind="failed")
        found = json.loads(result.stdout)
        if found["error"]:
            raise ToolFailure(found["error"], kind="bad_pattern")
        more = [f"[more than {_MOST} hits; narrow it down]"] if found["more"] else []
        return ToolResult(content="\n".join([*found["lines"], *more]) or "no hits")

    return Tool(
        name="search",
        description=(
            "Lines of files in the workspace that match a regular expression (path:line: text). "
            "Without pattern: names of files. glob, such as *.py, limits the files."
        ),
        parameters={
            "type": "object",
            "properties": {"pattern": {"type": "string"}, "path": {"type": "string"}, "glob": {"type": "string"}},
        },
        effect="read",
        run=run,
    )
