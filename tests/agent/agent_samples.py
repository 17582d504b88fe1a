"""Tools and runs that the agent's tests share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent.scripted_endpoint import ScriptedEndpoint, Step
from deepground.agent.agent import Agent, AgentConfig
from deepground.agent.endpoint import Endpoint, EndpointConfig
from deepground.agent.outcome import Outcome
from deepground.agent.tools import Check, CheckResult, Tool, ToolContext, ToolResult, Toolset
from deepground.agent.trajectory import Event, read_events


def text_tool(
    name: str, run: Callable[..., str], effect: str = "read", schema: Mapping[str, Any] | None = None, **more: Any
) -> Tool:
    """A tool that answers with text; `run` takes the arguments by name."""

    def call(arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        del context
        return ToolResult(content=run(**arguments))

    return Tool(name=name, description=name, parameters=schema or {"type": "object"}, effect=effect, run=call, **more)  # type: ignore[arg-type]


def looks(name: str = "look", answer: str = "a wall") -> Tool:
    """A reading tool that takes anything."""
    return text_tool(name, lambda **_: answer)


def check(passes: Callable[[str], bool], report: str = "the light is off") -> Check:
    """A check of the answer."""
    return Check(name="light", run=lambda answer, _: CheckResult(passed=passes(answer), report=report))


ALWAYS = check(lambda _: True, "the light is on")


def run_script(
    script: list[Step], runs: Path, *tools: Tool, checked: Check | None = ALWAYS, complete: bool = True,
    config: AgentConfig | None = None, model: dict[str, Any] | None = None, repeat_last: bool = False, **more: Any,
) -> tuple[Outcome, list[Event], ScriptedEndpoint]:  # fmt: skip
    """A run against a script: what came of it, its record, and the endpoint with the requests that it saw."""
    scripted = ScriptedEndpoint(script, repeat_last=repeat_last)
    if model:
        scripted.model |= model
    with scripted:
        endpoint = Endpoint(EndpointConfig(base_url=scripted.base_url, backoff_s=0.01, read_timeout_s=2.0))
        try:
            agent = Agent(
                "Turn the light on.", model=endpoint, runs=runs, config=config,
                toolsets=[Toolset(name="test", tools=tools or (looks(),), check=checked)], **more,
            )  # fmt: skip
            outcome = agent.run()
        finally:
            endpoint.close()
        assert scripted.faults == []
        if complete:
            scripted.assert_complete()
    return outcome, read_events(runs / outcome.run_id), scripted


def of_type(events: list[Event], kind: str) -> list[Event]:
    """The events of one type."""
    return [event for event in events if event["type"] == kind]
