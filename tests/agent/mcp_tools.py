"""A small MCP server for tests: `python mcp_tools.py` over standard input and output, or with a port over HTTP."""

from __future__ import annotations

import os
import sys
import time

from mcp.server.mcpserver import Context, MCPServer
from mcp.types import ToolAnnotations

server = MCPServer("sample")


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def add(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


@server.tool()
def environment(variable: str) -> str:
    """A variable of the server's environment."""
    return os.environ.get(variable, "(not set)")


@server.tool()
def fail() -> str:
    """Always fails."""
    raise ValueError("not today")


@server.tool()
def die() -> str:
    """Ends the server."""
    sys.stderr.write("the server has had enough\n")
    sys.stderr.flush()
    os._exit(3)


@server.tool()
def sleep(seconds: float) -> str:
    """Takes its time."""
    time.sleep(seconds)
    return "slept"


@server.tool()
async def grow(context: Context) -> str:
    """Adds a tool."""
    server.add_tool(lambda: "new", name="grown", description="A tool that was not there before.")
    await context.notify_tools_changed()
    return "grown"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
    else:
        server.run()
