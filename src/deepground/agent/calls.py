"""Carrying out the calls of one reply: every call gets exactly one result, whatever happens.

The way of a call: known tool -> arguments are JSON -> they fit the schema -> rules and approval -> recorded -> run in a
thread -> cut to size -> recorded. Each refusal on the way is the call's result, for the model to put right.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import jsonschema

from deepground.agent.approval import ApprovalRequest, Human, Rule, decide
from deepground.agent.conversation import Conversation
from deepground.agent.recovery import parse_arguments
from deepground.agent.tools.ask import NOBODY_THERE
from deepground.agent.tools.protocol import Tool, ToolContext, ToolFailure, ToolResult
from deepground.agent.trajectory import Event
from deepground.errors import DeepgroundError
from deepground.messages import ToolCallPart

T = TypeVar("T")

_MOST_BESIDE_EACH_OTHER = 8
_GRACE_S = 2.0
"""For a tool that keeps its deadline itself, to say what it has."""
INTERRUPTED = (
    "The run was interrupted while this call was under way, and it is not known whether it had its effect. "
    "Look first; repeat it only if it did not."
)


@dataclass(frozen=True, kw_only=True)
class PreparedCall:
    """A call that passed everything up to its approval, or the refusal that it gets instead."""

    call: ToolCallPart
    tool: Tool | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    refusal: ToolResult | None = None


@dataclass(kw_only=True)
class CallRunner:
    """Runs calls for one run of the agent."""

    tools: Mapping[str, Tool]
    rules: Sequence[Rule]
    human: Human
    record: Callable[..., Event]
    """Writes an event: kind and fields."""
    context: ToolContext
    output_limit: int = 8192
    """Characters of one result that the model sees; the rest goes to a file."""
    tool_seconds: float = 600.0
    """That one call may take."""
    accept: Callable[[Mapping[str, Any]], ToolResult] | None = None
    """Decides about a finish call."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _waited: float = 0.0
    """Seconds that persons took since this was made."""

    def run_all(self, state: Conversation, most: int | None) -> None:
        """Run the calls of the last reply that have no result yet.

        Args:
            state: is told of every event through `record`.
            most: calls that the budget still allows; those beyond are refused. None: no limit.
        """
        queue = state.unanswered
        allowed, beyond = (queue, []) if most is None else (queue[:most], queue[most:])
        while allowed and not self.context.cancelled.is_set():
            batch = self._next_batch(allowed, state)
            allowed = allowed[len(batch) :]
            if len(batch) == 1:
                self._run(batch[0], state)
            else:
                with ThreadPoolExecutor(_MOST_BESIDE_EACH_OTHER, thread_name_prefix="agent-tool") as pool:
                    list(pool.map(lambda prepared: self._run(prepared, state), batch))
        for call in beyond:
            self._answer(call, _refuse("The budget of tool calls is used up; this call was not run.", "budget"))

    def _next_batch(self, calls: Sequence[ToolCallPart], state: Conversation) -> list[PreparedCall]:
        """The first call, and those after it that may run beside it: reading, and nothing that another one touches."""
        batch: list[PreparedCall] = []
        touched: set[str] = set()
        for call in calls:
            prepared = self._prepare(call)
            alone = prepared.tool is None or prepared.tool.effect != "read" or call.id in state.begun
            resources = (
                set(prepared.tool.resources(prepared.arguments)) if prepared.tool and prepared.tool.resources else set()
            )
            if batch and (alone or resources & touched):
                break
            batch.append(prepared)
            touched |= resources
            if alone:
                break
        return batch

    def _prepare(self, call: ToolCallPart) -> PreparedCall:
        tool = self.tools.get(call.name)
        if tool is None:
            known = ", ".join(sorted(self.tools))
            return PreparedCall(
                call=call, refusal=_refuse(f"There is no tool {call.name!r}. There are: {known}.", "unknown_tool")
            )
        try:
            arguments = parse_arguments(call.arguments)
        except ValueError as error:
            text = f"The arguments of {call.name} are not a JSON object: {error}. Write the call again."
            return PreparedCall(call=call, refusal=_refuse(text, "invalid_arguments"))
        if problem := schema_problem(tool, arguments):
            return PreparedCall(call=call, refusal=_refuse(problem, "invalid_arguments"))
        return PreparedCall(call=call, tool=tool, arguments=arguments)

    def _run(self, prepared: PreparedCall, state: Conversation) -> None:
        call, tool = prepared.call, prepared.tool
        if prepared.refusal is not None or tool is None:
            self._answer(call, prepared.refusal or _refuse("This call cannot be run.", "failed"))
            return
        if call.id in state.begun and tool.effect == "once":
            self._answer(call, _refuse(INTERRUPTED, "interrupted"), tool)
            return
        if refusal := self._approve(prepared, tool, state):
            self._answer(call, refusal, tool)
            return
        with self._lock:
            self.record(
                "tool_call", call_id=call.id, name=call.name, arguments=dict(prepared.arguments), effect=tool.effect
            )
        start = time.monotonic()
        if tool.name == "ask":
            result = self._consult(prepared.arguments, call.id)
        elif tool.name == "finish" and self.accept is not None:
            result = self.accept(prepared.arguments)
        else:
            result = self._guarded(tool, prepared.arguments, call.id)
        self._answer(call, result, tool, seconds=time.monotonic() - start, arguments=prepared.arguments)

    def _approve(self, prepared: PreparedCall, tool: Tool, state: Conversation) -> ToolResult | None:
        call = prepared.call
        try:
            text = tool.approval_text(prepared.arguments) if tool.approval_text else _canonical(prepared.arguments)
        except Exception as error:  # a rule that cannot be applied allows nothing
            return _refuse(f"The rules cannot be applied to this call ({error!r}); it was not run.", "denied")
        action = decide(self.rules, tool.name, text)
        if action == "deny":
            return _refuse("The rules of this run forbid this call. Find another way.", "denied")
        if action == "allow" or state.approvals.get(call.id):
            return None
        request = ApprovalRequest(call_id=call.id, tool=tool.name, arguments=prepared.arguments, text=text)
        with self._lock:
            self.record(
                "approval_request", call_id=call.id, name=tool.name, arguments=dict(prepared.arguments), text=text
            )
            approved = self._patiently(lambda: self.human.approve(request))
            self.record("approval", call_id=call.id, approved=approved)
        return None if approved else _refuse("This call was not approved. Find another way, or finish.", "denied")

    def _consult(self, arguments: Mapping[str, Any], call_id: str) -> ToolResult:
        """Put a question to the user."""
        question, options = str(arguments["question"]), [str(option) for option in arguments.get("options", [])]
        with self._lock:
            self.record("question", call_id=call_id, question=question, options=options)
            answer = self._patiently(lambda: self.human.answer(call_id, question, options))
            self.record("answer", call_id=call_id, answer=answer)
        if answer is None:
            return ToolResult(content=NOBODY_THERE)
        return ToolResult(content=answer or "(an empty answer)")

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Ask a person; the time that they take is not the run's."""
        start = time.monotonic()
        try:
            return ask()
        finally:
            self._waited += time.monotonic() - start

    def _guarded(self, tool: Tool, arguments: Mapping[str, Any], call_id: str) -> ToolResult:
        """Run a tool in a thread that is given up when it does not come back in time."""
        seconds = max(0.0, min(self.tool_seconds, self.context.deadline + self._waited - time.monotonic()))
        context = ToolContext(
            artifacts=self.context.artifacts,
            workspace=self.context.workspace,
            deadline=time.monotonic() + seconds,
            cancelled=self.context.cancelled,
            call_id=call_id,
        )
        held: list[ToolResult] = []
        thread = threading.Thread(
            target=lambda: held.append(call_tool(tool, arguments, context)), name=f"agent-{tool.name}", daemon=True
        )
        thread.start()
        end = time.monotonic() + seconds + _GRACE_S
        while thread.is_alive() and time.monotonic() < end:
            thread.join(0.1)
            if self.context.cancelled.is_set():
                thread.join(5.0)
                break
        if not held:
            word = "was stopped" if self.context.cancelled.is_set() else f"did not answer within {seconds:.0f} s"
            return _refuse(f"{tool.name} {word}; it is not known whether it had its effect.", "timeout")
        return held[0]

    def _answer(
        self, call: ToolCallPart, result: ToolResult, tool: Tool | None = None, *, seconds: float = 0.0,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        content, spilled = self._cut(call, result.content)
        files = [str(file) for file in result.files]
        more: dict[str, Any] = {}
        if tool is not None and tool.name == "finish" and not result.is_error:
            more["accepted"] = result.data
        with self._lock:
            self.record(
                "tool_result", call_id=call.id, name=call.name, content=content, is_error=result.is_error,
                error_kind=result.error_kind, data=_plain(result.data), files=files, spilled=spilled,
                effect=tool.effect if tool else "read", seconds=round(seconds, 3),
                arguments_text=_canonical(arguments) if arguments is not None else call.arguments, **more,
            )  # fmt: skip

    def _cut(self, call: ToolCallPart, content: str) -> tuple[str, str | None]:
        if len(content) <= self.output_limit:
            return content or "(no output)", None
        folder = self.context.artifacts / "outputs"
        folder.mkdir(parents=True, exist_ok=True)
        number = sum(1 for _ in folder.iterdir())
        name = f"{number:03d}-{call.name[:40]}.txt"
        path = folder / "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
        path.write_text(content, errors="replace")
        half = self.output_limit // 2
        cut = len(content) - 2 * half
        note = f"[... {cut} of {len(content)} characters left out; all of it is in @outputs/{path.name} ...]"
        return f"{content[:half]}\n{note}\n{content[-half:]}", str(path)


def call_tool(tool: Tool, arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
    """What a tool answers; whatever it raises becomes an answer too."""
    try:
        result: object = tool.run(arguments, context)
    except ToolFailure as failure:
        return _refuse(str(failure), failure.kind)
    except DeepgroundError as error:
        return _refuse(str(error), "failed")
    except Exception as error:  # a fault of the tool must not end the run
        return _refuse(f"{tool.name} has a fault of its own: {type(error).__name__}: {error}", "fault")
    if not isinstance(result, ToolResult) or not isinstance(result.content, str):
        return _refuse(f"{tool.name} has a fault of its own: it gave no text.", "fault")
    return result


def _refuse(text: str, kind: str) -> ToolResult:
    return ToolResult(content=text, is_error=True, error_kind=kind)


def schema_problem(tool: Tool, arguments: Mapping[str, Any]) -> str | None:
    """Where arguments do not fit a tool's schema, for the model; None: they do."""
    validator = jsonschema.validators.validator_for(tool.parameters, default=jsonschema.Draft202012Validator)
    try:
        errors = sorted(validator(tool.parameters).iter_errors(dict(arguments)), key=lambda error: list(error.path))
    except Exception as error:  # a schema from another server may be wrong itself
        return f"The schema of {tool.name} cannot be applied: {error}. Do without this tool."
    if not errors:
        return None
    first = errors[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first.path).lstrip(".")
    where = place or "as a whole"
    return f"The arguments of {tool.name} do not fit: {where}: {first.message[:300]}. Write the call again."


def _canonical(arguments: Mapping[str, Any]) -> str:
    return json.dumps(arguments, ensure_ascii=False, sort_keys=True)


def _plain(data: Any) -> Any:
    """Data as JSON values; what JSON cannot hold becomes text."""
    return json.loads(json.dumps(data, ensure_ascii=False, default=str))


def spill_folder(artifacts: Path) -> Path:
    """Where outputs lie that were too long to show."""
    return artifacts / "outputs"
