"""Our tools for other programs: an MCP server over standard input and output, for one workspace.

What the program that connects may call is for it to decide and to ask about; the sandbox holds here too.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

from deepground.agent.calls import call_tool, schema_problem
from deepground.agent.tools import Tool, ToolContext, ToolResult, code_toolset

_NOT_OFFERED = ("todo", "ask")
_SECONDS = 600.0
_LONGEST = 30_000


def serve_tools(workspace: Path, *, test_command: str | None = None) -> None:
    """Serve until the other side hangs up.

    Raises:
        SandboxUnavailableError: commands cannot be isolated here; names the cure.
        SandboxError: the workspace cannot be used.
    """
    toolset = code_toolset(workspace, test_command=test_command, keep_tests=False)
    tools = {tool.name: tool for tool in toolset.tools if tool.name not in _NOT_OFFERED}
    with tempfile.TemporaryDirectory(prefix="deepground-mcp-") as scratch:
        context = ToolContext(artifacts=Path(scratch), workspace=workspace.resolve())
        anyio.run(_serve, tools, context, toolset.instructions)


async def _serve(tools: dict[str, Tool], context: ToolContext, instructions: str) -> None:
    async def list_tools(_: Any, __: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[_described(tool) for tool in tools.values()])

    async def call(_: Any, asked: types.CallToolRequestParams) -> types.CallToolResult:
        tool = tools.get(asked.name)
        if tool is None:
            return _answer(ToolResult(content=f"There is no tool {asked.name!r}.", is_error=True))
        arguments = dict(asked.arguments or {})
        if problem := schema_problem(tool, arguments):
            return _answer(ToolResult(content=problem, is_error=True))
        now = ToolContext(
            artifacts=context.artifacts, workspace=context.workspace, deadline=time.monotonic() + _SECONDS
        )
        async with lock:  # as in a run: what changes something runs alone
            return _answer(await anyio.to_thread.run_sync(call_tool, tool, arguments, now))

    lock = anyio.Lock()
    server: Server[Any] = Server(
        "deepground", instructions=instructions, on_list_tools=list_tools, on_call_tool=call
    )  # fmt: skip
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


def _described(tool: Tool) -> types.Tool:
    hints = types.ToolAnnotations(
        read_only_hint=tool.effect == "read", idempotent_hint=tool.effect != "once", open_world_hint=False
    )
    return types.Tool(
        name=tool.name, description=tool.description, input_schema=dict(tool.parameters), annotations=hints
    )


def _answer(result: ToolResult) -> types.CallToolResult:
    text = result.content
    if len(text) > _LONGEST:
        half = _LONGEST // 2
        text = f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"
    return types.CallToolResult(content=[types.TextContent(text=text)], is_error=result.is_error)
