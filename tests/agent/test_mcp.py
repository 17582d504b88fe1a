"""Tools of real MCP servers, over standard input and output and over HTTP; and our own tools as a server."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

from agent.agent_samples import of_type, run_script
from agent.scripted_endpoint import ScriptedEndpoint, call, finish
from deepground.agent.agent import Agent, AgentConfig
from deepground.agent.approval import Rule
from deepground.agent.endpoint import Endpoint, EndpointConfig
from deepground.agent.mcp import McpServers, _name
from deepground.agent.mcp_config import McpServerConfig, load_mcp_config
from deepground.agent.tools import ToolContext, ToolFailure, Toolset
from deepground.agent.trajectory import read_events
from deepground.errors import AgentError

SERVER = Path(__file__).with_name("mcp_tools.py")


def program(**more: Any) -> McpServerConfig:
    return McpServerConfig(name="sample", command=sys.executable, args=(str(SERVER),), timeout_s=20, **more)


@pytest.fixture
def http_server() -> Iterator[McpServerConfig]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, SERVER, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield McpServerConfig(name="web", url=f"http://127.0.0.1:{port}/mcp", timeout_s=20)
    finally:
        process.kill()
        process.wait()


def use(toolset: Toolset, name: str, context: ToolContext, **arguments: Any) -> str:
    tool = next(tool for tool in toolset.tools if tool.name == name)
    return tool.run(arguments, context).content


class TestProgram:
    def test_tools_and_calls(self, context: ToolContext) -> None:
        with McpServers([program(env={"COLOUR": "blue"})]) as servers:
            toolset = servers.toolset()
            effects = {tool.name: tool.effect for tool in toolset.tools}
            assert effects["mcp__sample__add"] == "read"
            assert effects["mcp__sample__sleep"] == "once"
            assert use(toolset, "mcp__sample__add", context, a=2, b=3) == "5"
            assert use(toolset, "mcp__sample__environment", context, variable="COLOUR") == "blue"
            failed = next(t for t in toolset.tools if t.name == "mcp__sample__fail").run({}, context)
            assert failed.is_error
            assert failed.content == "Error executing tool fail"

    def test_our_own_environment_is_not_given_away(self, context: ToolContext) -> None:
        assert os.environ["PYTEST_CURRENT_TEST"]
        with McpServers([program()]) as servers:
            said = use(servers.toolset(), "mcp__sample__environment", context, variable="PYTEST_CURRENT_TEST")
        assert said == "(not set)"

    def test_death_is_an_error_and_the_next_call_starts_it_again(self, context: ToolContext) -> None:
        with McpServers([program()]) as servers:
            toolset = servers.toolset()
            with pytest.raises(ToolFailure, match=r"ended during the call.*had enough") as failure:
                use(toolset, "mcp__sample__die", context)
            assert failure.value.kind == "server"
            assert use(toolset, "mcp__sample__add", context, a=1, b=1) == "2"

    def test_slow_calls_are_given_up(self, folder: Path, tmp_path: Path) -> None:
        cancelled = threading.Event()
        with McpServers([program()]) as servers:
            toolset = servers.toolset()
            context = ToolContext(artifacts=tmp_path, workspace=folder, deadline=time.monotonic() + 0.5)
            with pytest.raises(ToolFailure):
                use(toolset, "mcp__sample__sleep", context, seconds=3)
            threading.Timer(0.3, cancelled.set).start()
            start = time.monotonic()
            with pytest.raises(ToolFailure, match="not waited for"):
                use(toolset, "mcp__sample__sleep", ToolContext(artifacts=tmp_path, cancelled=cancelled), seconds=20)
            assert time.monotonic() - start < 3

    @pytest.mark.parametrize(
        ("config", "said"),
        [
            (McpServerConfig(name="x", command="/nowhere/at/all"), "x does not start"),
            (
                McpServerConfig(name="x", command=sys.executable, args=("-c", "raise SystemExit('no licence')")),
                "no licence",
            ),
            (McpServerConfig(name="x", command="/bin/sleep", args=("30",), timeout_s=1), "no answer within 1 s"),
            (McpServerConfig(name="x", url="http://127.0.0.1:9/mcp", timeout_s=5), "x does not start"),
        ],
    )
    def test_server_that_does_not_start(self, config: McpServerConfig, said: str) -> None:
        with pytest.raises(AgentError, match=said), McpServers([config]):
            pass


class TestAddress:
    def test_tools_and_calls(self, http_server: McpServerConfig, context: ToolContext) -> None:
        with McpServers([http_server, program()]) as servers:
            toolset = servers.toolset()
            assert use(toolset, "mcp__web__add", context, a=2, b=3) == "5"
            assert use(toolset, "mcp__sample__add", context, a=2, b=4) == "6"
            with pytest.raises(ToolFailure):
                use(toolset, "mcp__web__die", context)
            with pytest.raises(ToolFailure, match="web"):
                use(toolset, "mcp__web__add", context, a=2, b=3)


class TestRuns:
    def test_new_tools_are_offered_in_the_same_run(self, tmp_path: Path) -> None:
        config = AgentConfig(rules=(Rule(tool="mcp__*", action="allow"),))

        def uses_it(request: dict[str, Any]) -> Any:
            names = [tool["function"]["name"] for tool in request["tools"]]
            return call("mcp__sample__grown") if "mcp__sample__grown" in names else call("mcp__sample__add", a=1, b=1)

        with ScriptedEndpoint([call("mcp__sample__grow"), uses_it, uses_it, finish("ok")]) as scripted:
            endpoint = Endpoint(EndpointConfig(base_url=scripted.base_url))
            with McpServers([program()]) as servers:
                agent = Agent("x", model=endpoint, toolsets=[servers.toolset()], runs=tmp_path, config=config)
                agent.run()
            endpoint.close()
        events = read_events(tmp_path / agent.run_id)
        assert of_type(events, "tools_changed")
        assert "new" in [event["content"] for event in of_type(events, "tool_result")]

    def test_calls_are_asked_about_unless_rules_allow_them(self, tmp_path: Path) -> None:
        with McpServers([program()]) as servers:
            tools = servers.toolset().tools
            _, events, _ = run_script([call("mcp__sample__add", a=1, b=1), finish()], tmp_path, *tools)
        assert "not approved" in of_type(events, "tool_result")[0]["content"]

    def test_names(self) -> None:
        assert _name("a", "b.c/d") == "mcp__a__b_c_d"
        names = {_name("server", "x" * 70 + str(n)) for n in range(3)}
        assert len(names) == 3
        assert {len(name) for name in names} == {64}


class TestConfiguration:
    def test_variables(self, tmp_path: Path) -> None:
        file = tmp_path / "mcp.json"
        entry = {"command": "${BIN}/x", "args": ["--key", "${KEY:-none}"], "env": {"A": "${KEY}"}, "timeout": 5}
        servers = {"a": entry, "b": {"type": "http", "url": "https://${HOST}/mcp", "headers": {"X": "y"}}}
        file.write_text(json.dumps({"mcpServers": {**servers, "off": {"command": "x", "disabled": True}}}))
        first, second = load_mcp_config(file, {"BIN": "/opt", "KEY": "k", "HOST": "h"})
        assert (first.command, first.args, first.env, first.timeout_s) == ("/opt/x", ("--key", "k"), {"A": "k"}, 5.0)
        assert (second.url, second.headers) == ("https://h/mcp", {"X": "y"})
        with pytest.raises(AgentError, match=r"mcpServers\.a\.command needs the environment variable BIN"):
            load_mcp_config(file, {})

    @pytest.mark.parametrize(
        ("entry", "said"),
        [
            ({}, "needs a command"),
            ([], "no object"),
            ({"command": 3}, "must be text"),
            ({"command": "x", "args": "y"}, "list of texts"),
            ({"url": "ftp://x"}, "begins with http"),
            ({"url": "http://x", "type": "sse"}, "Known are stdio"),
            ({"command": "x", "autoApprove": ["y"]}, "autoApprove is not known"),
            ({"command": "x", "timeout": 0}, "above zero"),
        ],
    )
    def test_mistakes_are_named(self, tmp_path: Path, entry: Any, said: str) -> None:
        file = tmp_path / "mcp.json"
        file.write_text(json.dumps({"mcpServers": {"a": entry}}))
        with pytest.raises(AgentError, match=said):
            load_mcp_config(file)


@pytest.mark.usefixtures("sandbox")
class TestOurServer:
    def test_tools_over_standard_input_and_output(self, folder: Path) -> None:
        (folder / "calc.py").write_text("def add(a, b):\n    return a - b\n")
        (folder / "test_calc.py").write_text("from calc import add\n\n\ndef test_add():\n    assert add(2, 3) == 5\n")
        arguments = ["-m", "deepground", "agent", "mcp-server", "--workspace", str(folder)]

        async def converse() -> dict[str, str]:
            async with Client(StdioServerParameters(command=sys.executable, args=arguments)) as client:
                said = {"tools": ",".join(sorted(tool.name for tool in (await client.list_tools()).tools))}
                asked: dict[str, dict[str, Any]] = {
                    "edit_file": {"path": "calc.py", "old": "a - b", "new": "a + b"},
                    "run_tests": {},
                    "shell": {"command": "cat /etc/shadow; pwd"},
                    "view_file": {"path": "../secret"},
                    "search": {"pattern": 3},
                }
                for name, given in asked.items():
                    result = await client.call_tool(name, given)
                    said[name] = f"{result.is_error} {result.content[0].text}"  # type: ignore[union-attr]
                return said

        said = asyncio.run(asyncio.wait_for(converse(), 90))
        assert said["tools"] == "edit_file,python,run_tests,search,shell,view_file,write_file"
        assert said["edit_file"] == "False edited calc.py"
        assert "1 passed" in said["run_tests"]
        assert str(folder) in said["shell"]
        assert "root:" not in said["shell"]
        assert said["view_file"].startswith("True ../secret lies outside")
        assert said["search"].startswith("True The arguments of search do not fit")
