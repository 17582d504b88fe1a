"""`deepground agent`: carries out a task of several steps with tools, in a sandbox."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from deepground.cli.agent_memory import export, memory
from deepground.cli.agent_view import RunView, TerminalUser, Yes
from deepground.cli.trip_data import trip_data
from deepground.errors import AgentError, DeepgroundError

if TYPE_CHECKING:
    from deepground.agent.approval import Human
    from deepground.agent.memory import Memory
    from deepground.agent.session import RunSettings
    from deepground.agent.trajectory import Event, Listener


class TaskOrCommand(TyperGroup):
    """A group of commands whose first word may be a task instead: then it is `run` that is meant."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See click."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["run", *args]
        return super().parse_args(ctx, args)


agent = typer.Typer(
    cls=TaskOrCommand,
    help="Carry out a task of several steps with tools, in a sandbox: `deepground agent TASK`, which is short for "
    "`deepground agent run TASK`.",
    no_args_is_help=True,
    subcommand_metavar="TASK [OPTIONS] | COMMAND [ARGS]...",
)


agent.add_typer(memory, name="memory")
agent.add_typer(trip_data, name="trip-data")
agent.command()(export)


class Tools(StrEnum):
    """Which tools are offered."""

    AUTO = "auto"
    SMALL = "small"
    ALL = "all"


UrlOption = Annotated[
    str | None,
    typer.Option(envvar="DEEPGROUND_URL", help="Endpoint, OpenAI-compatible; else http://127.0.0.1:8000."),
]
KeyOption = Annotated[str, typer.Option(envvar="DEEPGROUND_API_KEY", help="Of the endpoint; better set as a variable.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Events as JSON lines on stdout, and nothing else there.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Approve what rules ask about; what they deny stays so.")]
MemoryOption = Annotated[bool, typer.Option("--memory/--no-memory", help="Use and keep what verified runs taught.")]
StepsOption = Annotated[int | None, typer.Option("--max-steps", min=1, help="Most requests to the model; else 50.")]
TokensOption = Annotated[int | None, typer.Option("--max-tokens", min=1, help="Most tokens in all; else 500,000.")]
SecondsOption = Annotated[float | None, typer.Option("--max-seconds", min=0.1, help="Longest time; else 1,800.")]
CallsOption = Annotated[int | None, typer.Option("--max-tool-calls", min=1, help="Most calls of tools; else 200.")]
RunId = Annotated[str, typer.Argument(help="Id of a run, or last.")]


@agent.command()
def run(
    task: Annotated[str, typer.Argument(help="What to do, in a sentence or more.")],
    workspace: Annotated[
        Path | None, typer.Option("--workspace", "-w", help="Folder to work in; without it, trips are planned.")
    ] = None,
    test_command: Annotated[
        str | None, typer.Option(help="Runs the tests that decide whether it is done; else pytest, if there are tests.")
    ] = None,
    change_tests: Annotated[bool, typer.Option("--change-tests", help="The tests themselves may be changed.")] = False,
    model: Annotated[str, typer.Option(envvar="DEEPGROUND_MODEL", help="Else the first that is served.")] = "",
    url: UrlOption = None,
    api_key: KeyOption = "",
    context_window: Annotated[
        int | None, typer.Option(min=256, help="Of the model; else what the server says.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="Else the server's own.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes replies repeatable, where the server can.")] = None,
    tools: Annotated[Tools, typer.Option(help="small: few and short, as small models know them.")] = Tools.AUTO,
    mcp_config: Annotated[Path | None, typer.Option("--mcp", help="JSON file with mcpServers, for more tools.")] = None,
    trips: Annotated[
        Path | None, typer.Option("--trip-data", help="Database for trips; see `agent trip-data`.", exists=True)
    ] = None,
    attempts: Annotated[
        int | None,
        typer.Option(min=1, help="How often to begin anew if the tests do not pass; else 5 for small models, and 1."),
    ] = None,
    rules: Annotated[Path | None, typer.Option(help="JSON file: which calls to allow, ask about or deny.")] = None,
    ask: Annotated[bool, typer.Option("--ask", help="Ask before every call that changes something.")] = False,
    yes: YesOption = False,
    schema: Annotated[Path | None, typer.Option(help="JSON Schema that the final answer must fit.")] = None,
    max_steps: StepsOption = None,
    max_tokens: TokensOption = None,
    max_seconds: SecondsOption = None,
    max_tool_calls: CallsOption = None,
    memory: MemoryOption = True,
    as_json: JsonOption = False,
) -> None:
    """Carry out a task. Exit code 0 only if a check passed; 4: no check did; 5: stuck; 6: budget used up; 1: error."""
    settings = _settings(locals())
    _run(task, settings, api_key=api_key, as_json=as_json, yes=yes, memory=memory)


@agent.command()
def resume(
    run_id: RunId,
    url: UrlOption = None,
    api_key: KeyOption = "",
    yes: YesOption = False,
    max_steps: StepsOption = None,
    max_tokens: TokensOption = None,
    max_seconds: SecondsOption = None,
    max_tool_calls: CallsOption = None,
    say: Annotated[str, typer.Option(help="What to tell the model first, such as what it has overlooked.")] = "",
    memory: MemoryOption = True,
    as_json: JsonOption = False,
) -> None:
    """Go on with a run that was interrupted or ended without success; with --say also with one that was completed."""
    from dataclasses import replace

    from deepground.agent.session import runs_folder, settings_of

    run_id = _known(run_id)
    task, settings = settings_of(run_id, runs_folder())
    settings = replace(
        settings,
        budget=replace(settings.budget, **_budget(locals())),
        base_url=settings.base_url if url is None else _address(url),
    )
    _run(task, settings, api_key=api_key, as_json=as_json, yes=yes, memory=memory, run_id=run_id, say=say)


@agent.command()
def show(
    run_id: RunId,
    html: Annotated[Path | None, typer.Option(help="Write a page to this file instead.")] = None,
) -> None:
    """Show all that happened in a run, results in full."""
    from deepground.agent.transcript import transcript_page

    events = _events(run_id)
    if html is not None:
        html.write_text(transcript_page(events), encoding="utf-8")
        typer.echo(f"wrote {html}", err=True)
        return
    console = Console(highlight=False)
    view = RunView(console, console, whole=True)
    for event in events:
        view(event)


@agent.command()
def replay(
    run_id: RunId,
    speed: Annotated[float, typer.Option(min=0.1, help="How much faster than it was; pauses are 2 s at most.")] = 1.0,
) -> None:
    """Show a run again as it went. Nothing is carried out."""
    console = Console(highlight=False)
    view, before = RunView(console, console), None
    for event in _events(run_id):
        if before is not None:
            time.sleep(min(max(0.0, event["time"] - before), 2.0) / speed)
        before = event["time"]
        view(event)


@agent.command(name="list")
def list_runs(as_json: Annotated[bool, typer.Option("--json", help="As JSON lines.")] = False) -> None:
    """Show all runs, newest last."""
    table = Table("id", "status", "steps", "tokens", "task", box=None)
    for row in _runs():
        if as_json:
            print(json.dumps(row, ensure_ascii=False))
        else:
            table.add_row(row["id"], row["status"], str(row["steps"]), f"{row['tokens']:,}", row["task"][:60])
    if not as_json:
        Console().print(table)


@agent.command(name="mcp-server")
def mcp_server(
    workspace: Annotated[Path, typer.Option("--workspace", "-w", help="Folder that the tools work in.")],
    test_command: Annotated[str | None, typer.Option(help="Runs the tests; else pytest, if there are tests.")] = None,
) -> None:
    """Offer the tools for files, commands and tests to another program, over standard input and output (MCP)."""
    from deepground.agent.mcp_server import serve_tools

    serve_tools(workspace, test_command=test_command)


def _run(
    task: str, settings: RunSettings, *, api_key: str, as_json: bool, yes: bool, memory: bool,
    run_id: str | None = None, say: str = "",
) -> None:  # fmt: skip
    from deepground.agent.memory import Memory, learn
    from deepground.agent.session import memory_file, open_run, runs_folder
    from deepground.agent.trajectory import read_events

    lessons = Memory(memory_file()) if memory else None
    stopped = threading.Event()
    listener, human = _front(as_json=as_json, yes=yes, stopped=stopped)
    runs = runs_folder()
    with open_run(
        task, settings, runs=runs, api_key=api_key, human=human, listener=listener, run_id=run_id, say=say,
        memory=lessons,
    ) as agent_run:  # fmt: skip
        with _stoppable(stopped.set, agent_run.cancel):
            outcome = agent_run.run()
        if lessons is not None:
            _learn(learn, read_events(runs / outcome.run_id), lessons)
    raise typer.Exit(outcome.exit_code)


def _learn(learn: Callable[..., Any], events: list[Event], memory: Memory) -> None:
    """What cannot be remembered must not spoil what was done."""
    try:
        learn(events, memory)
    except (DeepgroundError, OSError) as error:
        typer.echo(f"nothing was remembered: {error}", err=True)


def _front(*, as_json: bool, yes: bool, stopped: threading.Event) -> tuple[Listener, Human | None]:
    """Who is told, and who is asked. Nobody is asked where nobody sits, so a run never hangs on a question."""
    if as_json:
        return _print_event, Yes() if yes else None
    terminal = sys.stdout.isatty()
    out = Console(highlight=False)
    # What is piped on is for programs: steps stay out of it.
    aside = out if terminal else Console(stderr=True, highlight=False)
    human: Human | None = None
    if yes:
        human = Yes()
    elif terminal and sys.stdin.isatty():
        human = TerminalUser(aside, stopped)
    return RunView(out, aside), human


def _print_event(event: Event) -> None:
    if event["type"] != "delta":
        sys.stdout.write(json.dumps(event, ensure_ascii=False).encode(errors="replace").decode() + "\n")
        sys.stdout.flush()


@contextmanager
def _stoppable(*cancel: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C (and SIGTERM) end the run in order; the second time, at once: its record is on the disk either way."""

    def stop(number: int, frame: object) -> None:
        del frame
        signal.signal(number, lambda *_: os._exit(130))
        for end in cancel:
            end()
        if sys.stderr.isatty():
            sys.stderr.write("\nstopping; once more to stop at once\n")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _settings(options: Mapping[str, Any]) -> RunSettings:
    from deepground.agent.approval import load_rules
    from deepground.agent.outcome import Budget
    from deepground.agent.session import RunSettings

    workspace, rules, mcp_config = options["workspace"], options["rules"], options["mcp_config"]
    base = {"base_url": _address(options["url"])} if options["url"] else {}
    return RunSettings(
        **base, model=options["model"], context_window=options["context_window"], temperature=options["temperature"],
        seed=options["seed"], workspace=str(workspace.resolve()) if workspace else None,
        test_command=options["test_command"], keep_tests=not options["change_tests"], tools=options["tools"].value,
        attempts=options["attempts"],
        ask_first=options["ask"], rules=load_rules(rules) if rules else (), budget=Budget(**_budget(options)),
        answer_schema=_schema(options["schema"]), mcp_config=str(mcp_config.resolve()) if mcp_config else None,
        trip_data=str(options["trips"].resolve()) if options["trips"] else None,
    )  # fmt: skip


def _budget(options: Mapping[str, Any]) -> dict[str, Any]:
    names = ("steps", "tokens", "seconds", "tool_calls")
    return {name: options[f"max_{name}"] for name in names if options[f"max_{name}"] is not None}


def _address(url: str) -> str:
    """With the path at which servers have their API, if none is given."""
    scheme, _, rest = url.rstrip("/").partition("://")
    return f"{scheme}://{rest}" if "/" in rest or not rest else f"{scheme}://{rest}/v1"


def _schema(path: Path | None) -> Any:
    if path is None:
        return None
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AgentError(f"The schema in {path} cannot be read: {error}") from error
    if not isinstance(schema, dict):
        raise AgentError(f"The schema in {path} is no object.")
    return schema


def _runs() -> Iterator[dict[str, Any]]:
    from deepground.agent.conversation import Conversation
    from deepground.agent.session import runs_folder
    from deepground.agent.trajectory import read_events

    folder = runs_folder()
    for place in sorted(folder.iterdir()) if folder.is_dir() else []:
        try:
            events = read_events(place)
            state = Conversation.of(events)
        except DeepgroundError as error:
            yield {"id": place.name, "status": "damaged", "steps": 0, "tokens": 0, "task": str(error), "started": ""}
            continue
        if events:
            yield {
                "id": place.name,
                "status": state.ended["status"] if state.ended else "interrupted",
                "steps": state.spent.steps,
                "tokens": state.spent.tokens,
                "task": str(events[0].get("task", "")),
                "started": datetime.fromtimestamp(events[0]["time"], UTC).isoformat(timespec="seconds"),
            }


def _known(run_id: str) -> str:
    """The id of a run; last is the newest."""
    if run_id != "last":
        return run_id
    ids = [row["id"] for row in _runs()]
    if not ids:
        raise AgentError("There are no runs yet. Start one: deepground agent TASK")
    return str(ids[-1])


def _events(run_id: str) -> list[Event]:
    from deepground.agent.session import runs_folder
    from deepground.agent.trajectory import read_events, run_folder

    return read_events(run_folder(_known(run_id), runs_folder()))
