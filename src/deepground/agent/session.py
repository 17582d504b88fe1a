"""Putting a run together from settings: endpoint, tools, rules, memory. What the command line and the page start from.

The settings are kept in the run's record, so that resuming needs no more than the run's id (and the key, which is not
kept).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from deepground.agent.agent import Agent, AgentConfig
from deepground.agent.approval import Human, Rule
from deepground.agent.endpoint import ChatModel, Endpoint, EndpointConfig
from deepground.agent.guard import LoopLimits
from deepground.agent.memory import Memory, RememberingModel, notes_for, procedure_for
from deepground.agent.outcome import Budget
from deepground.agent.tools import Toolset, code_toolset
from deepground.agent.trajectory import Listener, read_events, run_folder, state_folder
from deepground.errors import AgentError, TrajectoryError

SMALL_WINDOW = 4096
"""Tokens of context up to which a model is given the few short tools that small models know."""
SMALL_ATTEMPTS = 5
_SMALL_REPLIES = 8
"""Share of a small window, as a divisor, that one reply may fill: a call is short, and babble is not."""
_SMALL_LIMITS = LoopLimits(nudge=2, stop=3)
_LATER_TEMPERATURE = 0.7
"""At which an attempt after the first is another one."""
_NEVER_ASKED = ("todo", "ask", "finish")


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What a run is made of, besides its task."""

    base_url: str = EndpointConfig.base_url
    model: str = ""
    """Empty: the first that the endpoint lists."""
    context_window: int | None = None
    """Tokens; None: what the endpoint says."""
    temperature: float | None = None
    """None: the endpoint's own."""
    seed: int | None = None
    workspace: str | None = None
    """Folder that the task is about; None: the task is a trip."""
    test_command: str | None = None
    """None: found out; see `tools.suite`."""
    keep_tests: bool = True
    """Whether a run that changes the tests themselves can be completed."""
    tools: Literal["auto", "small", "all"] = "auto"
    """auto: small for a window of up to `SMALL_WINDOW` tokens."""
    attempts: int | None = None
    """See `AgentConfig.attempts`; None: `SMALL_ATTEMPTS` with the tools of small models, else one."""
    ask_first: bool = False
    """Whether every call that changes something is asked about."""
    rules: tuple[Rule, ...] = ()
    budget: Budget = field(default_factory=Budget)
    answer_schema: Mapping[str, Any] | None = None
    mcp_config: str | None = None
    """File that names MCP servers."""
    trip_data: str | None = None
    """Database that trips are planned with; None: the bundled one."""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RunSettings:
        """What `asdict` made, and JSON kept."""
        rules = tuple(Rule(**rule) for rule in values["rules"])
        return cls(**{**values, "rules": rules, "budget": Budget(**values["budget"])})


def runs_folder() -> Path:
    """Where runs are kept."""
    return state_folder() / "runs"


def memory_file() -> Path:
    """Where lessons are kept."""
    return state_folder() / "memory.json"


@contextlib.contextmanager
def open_run(
    task: str, settings: RunSettings, *, runs: Path, api_key: str = "", human: Human | None = None,
    listener: Listener | None = None, run_id: str | None = None, say: str = "", memory: Memory | None = None,
) -> Iterator[Agent]:  # fmt: skip
    """An agent that is ready to run; what it needs is closed afterwards.

    Args:
        task: what to do.
        settings: how.
        runs: folder of the records of runs.
        api_key: of the endpoint.
        human: who approves and answers; nobody, if not given.
        listener: is told of every event.
        run_id: of an earlier run that is to go on.
        say: what a person says to that run.
        memory: lessons to use; None: none.

    Raises:
        DeepgroundError: the endpoint does not answer, a file is wrong, commands cannot be isolated here, or another run
            is at work in the same workspace.
    """
    config = EndpointConfig(
        base_url=settings.base_url, api_key=api_key, model=settings.model, context_window=settings.context_window,
        temperature=settings.temperature, seed=settings.seed,
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        endpoint = stack.enter_context(contextlib.closing(Endpoint(config)))
        if settings.tools == "auto":
            small = endpoint.window is not None and endpoint.window <= SMALL_WINDOW
            settings = replace(settings, tools="small" if small else "all")
        if settings.attempts is None:
            settings = replace(settings, attempts=SMALL_ATTEMPTS if settings.tools == "small" else 1)
        if settings.tools == "small" and endpoint.window is not None:
            config = replace(config, max_tokens=endpoint.window // _SMALL_REPLIES)
            endpoint = stack.enter_context(contextlib.closing(Endpoint(config)))
        warmer = replace(config, model=endpoint.model, temperature=max(_LATER_TEMPERATURE, settings.temperature or 0.0))
        later = stack.enter_context(contextlib.closing(Endpoint(warmer)))
        toolsets = _toolsets(task, settings, stack)
        if settings.workspace is not None:
            stack.enter_context(_alone_in(Path(settings.workspace)))
        names = [tool.name for toolset in toolsets for tool in toolset.tools]
        lessons = memory.lessons() if memory is not None else []
        procedure = procedure_for(task, names, lessons, workspace=settings.workspace)
        model: ChatModel = endpoint if procedure is None else RememberingModel(endpoint, procedure)
        yield Agent(
            task, model=model, later_model=later, toolsets=toolsets, runs=runs, human=human, listener=listener,
            run_id=run_id, say=say,
            config=_agent_config(settings, toolsets),
            workspace=Path(settings.workspace) if settings.workspace else None,
            notes=notes_for(task, names, lessons, window=endpoint.window),
            describe={"settings": asdict(replace(settings, model=endpoint.model))},
        )  # fmt: skip


@contextlib.contextmanager
def _alone_in(workspace: Path) -> Iterator[None]:
    """Two runs in one folder would undo each other's work, and each would be blamed for the other's changes."""
    try:
        folder = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise AgentError(f"The workspace {workspace} cannot be opened: {error.strerror}.") from error
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AgentError(f"Another run is at work in {workspace}. Wait for it, or stop it.") from error
        yield
    finally:
        os.close(folder)


def settings_of(run_id: str, runs: Path) -> tuple[str, RunSettings]:
    """Task and settings of a run that exists.

    Raises:
        TrajectoryError: there is no such run, or it was not started from settings.
    """
    events = read_events(run_folder(run_id, runs))
    if not events or events[0]["type"] != "run_started" or "settings" not in events[0]:
        raise TrajectoryError(f"The record of run {run_id} does not say how it was started. Start a new run.")
    return str(events[0]["task"]), RunSettings.from_json(events[0]["settings"])


def _agent_config(settings: RunSettings, toolsets: list[Toolset]) -> AgentConfig:
    config = AgentConfig(
        budget=settings.budget, rules=(*settings.rules, *_asked_first(settings, toolsets)),
        answer_schema=settings.answer_schema, attempts=settings.attempts or 1,
    )  # fmt: skip
    if settings.tools == "small" and config.attempts > 1 and all(toolset.restore for toolset in toolsets):
        # A small model that went wrong seldom finds its way back; a fresh start costs it less.
        return replace(config, most_checks=1, loop_limits=_SMALL_LIMITS)
    return config


def _toolsets(task: str, settings: RunSettings, stack: contextlib.ExitStack) -> list[Toolset]:
    small = settings.tools == "small"
    if settings.workspace is not None:
        own = code_toolset(
            Path(settings.workspace), test_command=settings.test_command, small=small, keep_tests=settings.keep_tests,
            keep_out=(state_folder(),),
        )  # fmt: skip
    else:
        own = _travel_tools(task, settings.trip_data, small=small)
    if settings.mcp_config is None:
        return [own]
    # Loaded only when wanted: the SDK takes longer to import than all else here.
    from deepground.agent.mcp import McpServers
    from deepground.agent.mcp_config import load_mcp_config

    servers = stack.enter_context(McpServers(load_mcp_config(Path(settings.mcp_config))))
    return [own, servers.toolset()]


def _travel_tools(task: str, database: str | None, *, small: bool) -> Toolset:
    """Tools for trips; their parts are large, and loaded only when they are wanted."""
    try:
        from deepground.agent.travel.tools import small_travel_toolset, travel_toolset
        from deepground.agent.travel.world import World
    except ImportError as error:
        raise AgentError(f"Trips cannot be planned here ({error}). Name a folder to work in: --workspace") from error
    world = None if database is None else World(Path(database))
    return small_travel_toolset(task, world=world) if small else travel_toolset(task, world=world)


def _asked_first(settings: RunSettings, toolsets: list[Toolset]) -> list[Rule]:
    """Rules for a run whose user wants to see each change first: after the others, as the last that matches decides."""
    if not settings.ask_first:
        return []
    changing = [t.name for s in toolsets for t in s.tools if t.effect != "read" and t.name not in _NEVER_ASKED]
    return [Rule(tool=name, action="ask") for name in changing]
