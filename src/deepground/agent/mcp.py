"""Tools of MCP servers: programs that are started here, or servers at an address.

The servers run outside the sandbox, so the house's rules ask before each of their calls. Each has a task of its own in
one event loop in a thread; calls are handed over to it and waited for. A server that fails or dies costs the model an
error as the result of its call; at the next call it is started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import tempfile
import threading
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import IO, Any, TextIO, TypeVar, cast

import mcp_types as types
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import ListenNotSupportedError
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.exceptions import MCPError

from deepground.agent.mcp_config import McpServerConfig
from deepground.agent.tools.protocol import Effect, Tool, ToolContext, ToolFailure, ToolResult, Toolset
from deepground.errors import AgentError

_LONGEST_DESCRIPTION = 600
_LONGEST_NAME = 64
_MOST_PAGES = 50
_CLOSING_S = 8.0
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_-]")
T = TypeVar("T")


class McpServers:
    """Connections to servers; used as a context manager.

    Args:
        configs: the servers.

    Raises:
        AgentError: (on entering) a server does not start or answer; names it and says why.
    """

    def __init__(self, configs: Sequence[McpServerConfig]) -> None:
        self._connections = [_Connection(config) for config in configs]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="agent-mcp", daemon=True)

    def __enter__(self) -> McpServers:
        self._thread.start()
        try:
            for connection in self._connections:
                self._wait(connection.connect(), connection.config.timeout_s + 5)
        except _ServerError as error:
            self.__exit__()
            raise AgentError(str(error)) from error
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._connections:
            with contextlib.suppress(_ServerError):
                self._wait(connection.close(), _CLOSING_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSING_S)
        if not self._thread.is_alive():
            self._loop.close()

    def toolset(self) -> Toolset:
        """The tools of all servers, and what tells when they have become others."""
        return Toolset(name="mcp", tools=self._tools(), refresh=self._refresh)

    def _tools(self) -> tuple[Tool, ...]:
        return tuple(self._tool(c, tool) for c in self._connections for tool in c.tools)

    def _refresh(self) -> tuple[Tool, ...] | None:
        stale = [connection for connection in self._connections if connection.stale.is_set()]
        for connection in stale:
            with contextlib.suppress(_ServerError):  # a server that is gone keeps the tools that it had
                self._wait(connection.list_tools(), connection.config.timeout_s)
        return self._tools() if stale else None

    def _tool(self, connection: _Connection, tool: types.Tool) -> Tool:
        def run(arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
            seconds = context.seconds_left(connection.config.timeout_s)
            try:
                result = self._wait(connection.call(tool.name, dict(arguments), seconds), seconds + 5, context)
            except _ServerError as error:
                raise ToolFailure(str(error), kind="server") from error
            return _result_of(result)

        return Tool(
            name=_name(connection.config.name, tool.name),
            description=(tool.description or tool.title or tool.name)[:_LONGEST_DESCRIPTION],
            parameters=tool.input_schema,
            effect=_effect(tool.annotations),
            run=run,
        )

    def _wait(self, work: Coroutine[Any, Any, T], seconds: float, context: ToolContext | None = None) -> T:
        """Have the loop do something, and give up when the run is cancelled."""
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        waited = 0.0
        while waited < seconds:
            try:
                return future.result(0.1)
            except FutureTimeoutError:
                if future.done():  # it was the work that timed out
                    raise _ServerError("The server took too long.") from None
                waited += 0.1
            if context is not None and context.cancelled.is_set():
                break
        future.cancel()
        raise _ServerError("The server was not waited for any longer; it is not known whether the call had its effect.")


class _ServerError(Exception):
    """A server could not be had, or gave no result; the text is for the model and for people."""


class _Connection:
    """One server; everything here runs in the loop."""

    def __init__(self, config: McpServerConfig) -> None:
        self.config = config
        self.tools: list[types.Tool] = []
        self.stale = threading.Event()
        """The server says that its tools are no longer what they were."""
        self._client: Client | None = None
        self._task: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._said = ""
        """The end of what the last program wrote to its standard error."""

    async def connect(self) -> None:
        """Start the server, if it is none, and ask for its tools."""
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self._hold(ready))
        try:
            await asyncio.wait_for(asyncio.shield(ready), self.config.timeout_s)
        except Exception as error:
            self._task.cancel()
            with contextlib.suppress(Exception, asyncio.CancelledError):
                await self._task
            raise _ServerError(f"The MCP server {self.config.name} does not start: {self._why(error)}") from error

    async def call(self, tool: str, arguments: dict[str, Any], seconds: float) -> types.CallToolResult:
        """Call a tool."""
        if self._task is None or self._task.done():
            await self.connect()
        assert self._client is not None
        assert self._task is not None
        work = asyncio.ensure_future(self._client.call_tool(tool, arguments, read_timeout_seconds=seconds))
        # The task that holds the connection ends with it, whatever a waiting call is told.
        try:
            await asyncio.wait({work, self._task}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not work.done():
                work.cancel()
        if work.cancelled() or not work.done():
            raise _ServerError(self._end())
        try:
            return work.result()
        except MCPError as error:
            if error.code == types.CONNECTION_CLOSED:
                await self.close()
                raise _ServerError(self._end()) from error
            raise _ServerError(f"The MCP server {self.config.name} refuses: {error.message}") from error
        except Exception as error:
            raise _ServerError(f"The MCP server {self.config.name} gave no result: {self._why(error)}") from error

    async def list_tools(self) -> None:
        """Ask for the tools."""
        assert self._client is not None
        self.stale.clear()
        found: list[types.Tool] = []
        cursor: str | None = None
        try:
            for _ in range(_MOST_PAGES):
                page = await self._client.list_tools(cursor=cursor, cache_mode="bypass")
                found += page.tools
                cursor = page.next_cursor
                if cursor is None:
                    break
        except Exception as error:
            raise _ServerError(f"The MCP server {self.config.name} does not list its tools: {error}") from error
        self.tools = found

    async def close(self) -> None:
        """End the connection, and the program."""
        self._stop.set()
        if self._task is not None:
            with contextlib.suppress(Exception, asyncio.CancelledError):
                await asyncio.wait_for(self._task, _CLOSING_S)

    async def _hold(self, ready: asyncio.Future[None]) -> None:
        """Keep the connection: a client is entered and left by the same task."""
        with tempfile.TemporaryFile("w+", errors="replace") as errors:
            try:
                async with contextlib.AsyncExitStack() as stack:
                    transport = await self._transport(stack, errors)
                    client = Client(transport, message_handler=self._notice, client_info=_WHO_WE_ARE)
                    self._client = await stack.enter_async_context(client)
                    await self.list_tools()
                    stack.push_async_callback(_ended, asyncio.create_task(self._listen()))
                    ready.set_result(None)
                    await self._stop.wait()
            except Exception as error:
                if not ready.done():
                    ready.set_exception(error)
            finally:
                errors.seek(0)
                self._said = errors.read()[-500:].strip()

    async def _transport(self, stack: contextlib.AsyncExitStack, errors: IO[str]) -> Any:
        config = self.config
        if config.url:
            http = await stack.enter_async_context(create_mcp_http_client(headers=dict(config.headers)))
            return streamable_http_client(config.url, http_client=http)
        parameters = StdioServerParameters(
            command=config.command, args=list(config.args), env=dict(config.env), cwd=config.cwd
        )
        return stdio_client(parameters, errlog=cast(TextIO, errors))

    async def _listen(self) -> None:
        """Hear of changed tools from servers of the protocol's new age; others send a notification by themselves."""
        assert self._client is not None
        with contextlib.suppress(ListenNotSupportedError, MCPError, Exception):
            async with self._client.listen(tools_list_changed=True) as changes:
                async for _ in changes:
                    self.stale.set()

    async def _notice(self, message: Any) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            self.stale.set()

    def _why(self, error: Exception) -> str:
        while isinstance(error, ExceptionGroup) and error.exceptions:
            error = error.exceptions[0]
        said = f"It says: {self._said}" if self._said else ""
        if isinstance(error, TimeoutError):
            return f"no answer within {self.config.timeout_s:g} s. {said}".strip()
        return f"{error or type(error).__name__}. {said}".strip()

    def _end(self) -> str:
        said = f" It says: {self._said}" if self._said else ""
        return f"The MCP server {self.config.name} ended during the call; whether it had its effect is unknown.{said}"


_WHO_WE_ARE = types.Implementation(name="deepground", version="1")


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(Exception, asyncio.CancelledError):
        await task


def _name(server: str, tool: str) -> str:
    """The tool's name for the model; longer ones end in a digest, so that they stay different."""
    name = _NOT_IN_A_NAME.sub("_", f"mcp__{server}__{tool}")
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[: _LONGEST_NAME - 9]}_{hashlib.sha256(tool.encode()).hexdigest()[:8]}"


def _effect(hints: types.ToolAnnotations | None) -> Effect:
    if hints is not None and hints.read_only_hint:
        return "read"
    return "repeatable" if hints is not None and hints.idempotent_hint else "once"


def _result_of(result: types.CallToolResult) -> ToolResult:
    texts = [_shown(block) for block in result.content]
    data = result.structured_content
    if not texts and data is not None:
        texts = [json.dumps(data, ensure_ascii=False)]
    return ToolResult(
        content="\n".join(texts), data=data, is_error=result.is_error, error_kind="tool" if result.is_error else ""
    )


def _shown(block: types.ContentBlock) -> str:
    match block:
        case types.TextContent():
            return block.text
        case types.EmbeddedResource(resource=types.TextResourceContents() as resource):
            return resource.text
        case types.ResourceLink():
            return f"[{block.name}: {block.uri}]"
    return f"[{block.type}: not shown, since the model reads text]"
