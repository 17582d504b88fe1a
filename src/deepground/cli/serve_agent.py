"""What `deepground serve --agent` adds: runs of the agent for whoever may use the server, with its own model."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from deepground.agent.agent import Agent
    from deepground.agent.service import AgentService, RunOrder
    from deepground.agent.trajectory import Event

AgentOption = Annotated[bool, typer.Option("--agent", help="Let the page and the API run agents.")]
WorkspacesOption = Annotated[
    list[Path] | None, typer.Option("--agent-workspace", help="Folder that agents may work in; may be repeated.")
]
RulesOption = Annotated[
    Path | None, typer.Option("--agent-rules", help="JSON file: which calls of agents to allow, ask about or deny.")
]
UrlOption = Annotated[
    str | None, typer.Option("--agent-url", help="Endpoint that agents ask instead of this server, OpenAI-compatible.")
]
KeyOption = Annotated[
    str, typer.Option("--agent-key", envvar="DEEPGROUND_AGENT_KEY", help="Its key; better set in the environment.")
]


def check_agent_options(options: Mapping[str, Any]) -> None:
    """Refuse what does not go together.

    Raises:
        typer.BadParameter: names the option.
    """
    if not options["agent"]:
        for name in ("agent_workspace", "agent_rules", "agent_url", "agent_key"):
            if options[name]:
                raise typer.BadParameter("needs --agent", param_hint=f"--{name.replace('_', '-')}")
    elif not options["agent_url"] and (options["unix_socket"] or options["tls_cert"]):
        raise typer.BadParameter(
            "asks the model over plain HTTP; with --unix-socket or --tls-cert, name an endpoint that it can ask: "
            "--agent-url",
            param_hint="--agent",
        )


@contextlib.contextmanager
def agent_service(options: Mapping[str, Any], sock: socket.socket) -> Iterator[AgentService | None]:
    """What runs agents, ended at the end; None where it is not asked for.

    Args:
        options: of `serve`.
        sock: what the server listens on.

    Raises:
        DeepgroundError: a workspace or the rules cannot be used, or nothing can be isolated here.
    """
    if not options["agent"]:
        yield None
        return
    from deepground.agent.approval import load_rules
    from deepground.agent.service import AgentService, ServiceSettings
    from deepground.agent.session import RunSettings, runs_folder

    logging.getLogger("httpx").setLevel(logging.WARNING)  # the server logs the requests of agents already
    url = options["agent_url"] or f"{_own_address(sock)}/v1"
    rules = load_rules(options["agent_rules"]) if options["agent_rules"] else ()
    base = RunSettings(base_url=url, rules=rules)
    foreign_key = options["agent_key"] if options["agent_url"] else None
    runs = runs_folder()
    settings = ServiceSettings(
        runs=runs, open=_opener(base, runs, foreign_key), workspaces=_workspaces(options["agent_workspace"] or ()),
        learn=_learn,
    )  # fmt: skip
    with AgentService(settings) as service:
        yield service


def agent_summary(service: AgentService | None) -> list[str]:
    """What `serve` prints about it."""
    if service is None:
        return []
    return [f"agent    on; may work in {', '.join(service.workspaces) or 'no folder'}"]


def _opener(
    base: Any, runs: Path, foreign_key: str | None
) -> Callable[[RunOrder], contextlib.AbstractContextManager[Agent]]:
    from dataclasses import replace

    from deepground.agent.memory import Memory
    from deepground.agent.session import open_run

    def open_(order: RunOrder) -> contextlib.AbstractContextManager[Agent]:
        settings = replace(
            base, workspace=str(order.workspace) if order.workspace else None, ask_first=order.ask_first,
            budget=order.budget,
        )  # fmt: skip
        return open_run(
            order.task, settings, runs=runs, api_key=order.credential if foreign_key is None else foreign_key,
            human=order.human, listener=order.listener, run_id=order.run_id, memory=Memory(_memory_of(order.owner)),
        )  # fmt: skip

    return open_


def _learn(owner: str, events: Sequence[Event]) -> None:
    from deepground.agent.memory import Memory, learn
    from deepground.errors import AgentError

    try:
        learn(events, Memory(_memory_of(owner)))
    except OSError as error:
        raise AgentError(f"The memory cannot be written: {error}") from error


def _memory_of(owner: str) -> Path:
    """Lessons tell of tasks, so every key has its own; where there are no keys, they are the command line's."""
    from deepground.agent.session import memory_file
    from deepground.server import LOCAL

    if owner == LOCAL.id:
        return memory_file()
    return memory_file().parent / "memory" / f"{hashlib.sha256(owner.encode()).hexdigest()[:32]}.json"


def _workspaces(folders: Sequence[Path]) -> tuple[Path, ...]:
    from deepground.agent.trajectory import state_folder
    from deepground.sandbox import find_sandbox, resolve_workspace

    if folders:
        find_sandbox()  # better refused now than at the first task
    return tuple(dict.fromkeys(resolve_workspace(folder, keep_out=(state_folder(),)) for folder in folders))


def _own_address(sock: socket.socket) -> str:
    """Where the server reaches itself: an address that means all of them is one for listening only."""
    from deepground.server import url_of

    if sock.family == socket.AF_UNIX:
        return ""
    return url_of(sock).replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
