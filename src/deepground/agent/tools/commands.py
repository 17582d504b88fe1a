"""Tools that run commands in the sandbox: a shell line, a Python program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepground.agent.tools.protocol import Tool, ToolContext, ToolResult
from deepground.sandbox import Limits, Result, Sandbox

_SECONDS = 60.0
_MOST_SECONDS = 600.0
_SECONDS_ARGUMENT = {"type": "number", "exclusiveMinimum": 0, "maximum": _MOST_SECONDS}
_ENDED = {
    "time": "it took longer than {seconds:g} s",
    "memory": "it used too much memory",
    "processes": "it started too many processes",
    "disk": "it wrote too much to the disk",
    "output": "it wrote too much",
    "cancelled": "the user stopped it",
}


def shell_tool(sandbox: Sandbox, workspace: Path) -> Tool:
    """Runs a line of bash; nothing but files in the workspace outlives it."""

    def run(arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        command = ["/bin/bash", "-c", arguments["command"]]
        return _run(sandbox, workspace, command, arguments, context)

    return Tool(
        name="shell",
        description=(
            "Run a bash command in the workspace, without network. Every call is a new shell: "
            "write cd DIR && ... for another folder."
        ),
        parameters={
            "type": "object",
            "properties": {"command": {"type": "string"}, "seconds": _SECONDS_ARGUMENT},
            "required": ["command"],
        },
        effect="once",
        run=run,
        approval_text=lambda arguments: str(arguments["command"]),
    )


def python_tool(sandbox: Sandbox, workspace: Path) -> Tool:
    """Runs a Python program."""

    def run(arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        return _run(sandbox, workspace, ["python3", "-"], arguments, context, stdin=arguments["code"])

    return Tool(
        name="python",
        description="Run a Python program in the workspace, without network; what it prints comes back.",
        parameters={
            "type": "object",
            "properties": {"code": {"type": "string"}, "seconds": _SECONDS_ARGUMENT},
            "required": ["code"],
        },
        effect="once",
        run=run,
        approval_text=lambda arguments: str(arguments["code"]),
    )


def ending(result: Result, limits: Limits) -> str:
    """How a program ended; empty if well."""
    if result.killed_by is not None:
        return f"[ended: {_ENDED[result.killed_by].format(seconds=limits.seconds)}]"
    return "" if result.exit == 0 else f"[exit code {result.exit}]"


def output_of(result: Result, limits: Limits) -> str:
    """What a program wrote and how it ended, as text for the model."""
    parts = [result.stdout.rstrip("\n")]
    if result.stderr.strip():
        parts.append(("[stderr]\n" if result.stdout.strip() else "") + result.stderr.rstrip("\n"))
    parts.append(ending(result, limits))
    return "\n".join(part for part in parts if part)


def limits_for(context: ToolContext, seconds: float) -> Limits:
    """The sandbox's limits for a call that may take so long."""
    return Limits(seconds=max(0.1, context.seconds_left(seconds)))


def _run(
    sandbox: Sandbox, workspace: Path, command: Sequence[str], arguments: Mapping[str, Any], context: ToolContext,
    stdin: str = "",
) -> ToolResult:  # fmt: skip
    limits = limits_for(context, arguments.get("seconds", _SECONDS))
    result = sandbox.run(
        command, workspace=workspace, limits=limits, stdin=stdin.encode(errors="replace"), cancelled=context.cancelled
    )
    data = {"exit": result.exit, "killed_by": result.killed_by, "seconds": round(result.seconds, 3)}
    return ToolResult(
        content=output_of(result, limits), data=data, is_error=not result.ok,
        error_kind="" if result.ok else result.killed_by or "exit_code",
    )  # fmt: skip
