"""A service whose runs have the tools of a test and a scripted model; for its own tests, the routes' and the page's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from agent.agent_samples import check, looks
from agent.scripted_endpoint import ScriptedEndpoint, Step
from deepground.agent.agent import Agent, AgentConfig
from deepground.agent.approval import Rule
from deepground.agent.endpoint import Endpoint, EndpointConfig
from deepground.agent.service import AgentService, RunOrder, ServiceSettings
from deepground.agent.tools import Tool, ToolContext, ToolResult, Toolset
from deepground.agent.tools.ask import ask_tool


def writes() -> Tool:
    """Makes a file for the user."""

    def run(arguments: Any, context: ToolContext) -> ToolResult:
        path = context.artifacts / "plan.md"
        path.write_text(arguments["text"])
        return ToolResult(content="written", files=(path,))

    schema = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    return Tool(name="write", description="write", parameters=schema, effect="repeatable", run=run)


class Office:
    """Makes the agents of a test's runs; remembers the credentials."""

    def __init__(self, base_url: str, runs: Path, tools: Sequence[Tool], credentials: list[str], diff: str) -> None:
        self.base_url, self.runs, self.tools, self.credentials, self.diff = base_url, runs, tools, credentials, diff

    @contextmanager
    def open(self, order: RunOrder) -> Iterator[Agent]:
        self.credentials.append(order.credential)
        asking = tuple(Rule(tool=name, action="ask") for name in ("write", "shell", "edit_file"))
        passes = check(lambda _: True, "the light is on")
        toolset = Toolset(name="test", tools=tuple(self.tools), check=passes, diff=lambda _: self.diff)
        with closing(Endpoint(EndpointConfig(base_url=self.base_url, api_key=order.credential, backoff_s=0.01))) as e:
            yield Agent(
                order.task, model=e, toolsets=[toolset], runs=self.runs, human=order.human, listener=order.listener,
                run_id=order.run_id, workspace=order.workspace,
                config=AgentConfig(budget=order.budget, rules=asking if order.ask_first else ()),
            )  # fmt: skip


@contextmanager
def service_of(
    script: Sequence[Step], runs: Path, *tools: Tool, repeat_last: bool = False,
    credentials: list[str] | None = None, diff: str = "", **settings: Any,
) -> Iterator[AgentService]:  # fmt: skip
    """A service in front of a script; notes the credentials that it asks the model with."""
    tools = tools or (looks(), writes(), ask_tool())
    with ScriptedEndpoint(script, repeat_last=repeat_last) as endpoint:
        office = Office(endpoint.base_url, runs, tools, credentials if credentials is not None else [], diff)
        with AgentService(ServiceSettings(runs=runs, open=office.open, **settings)) as service:
            yield service
        assert endpoint.faults == []
