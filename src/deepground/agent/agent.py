"""The agent: ask the model, carry out what it asks for, until a check says that the task is done.

The loop reads the state of the run from its record and nothing else, so that going on after a kill is the same as going
on. One turn of it, in order: is it over? are there calls to carry out? is there an answer to check? then ask the model.
"""

from __future__ import annotations

import datetime
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deepground.agent.approval import HOUSE_RULES, Human, Nobody, Rule
from deepground.agent.calls import CallRunner
from deepground.agent.compaction import TARGET, TRIGGER, plan_compaction, size_of
from deepground.agent.conversation import Conversation
from deepground.agent.endpoint import Cancelled, ChatModel, Reply
from deepground.agent.guard import LoopLimits, find_circle
from deepground.agent.outcome import CONCLUDED, Budget, Outcome, Status
from deepground.agent.recovery import looks_like_a_call, recover_calls
from deepground.agent.tools.finish import finish_tool, read_answer
from deepground.agent.tools.protocol import CheckResult, Tool, ToolContext, ToolResult, Toolset
from deepground.agent.trajectory import VERSION, Event, Listener, Trajectory
from deepground.agent.wire import to_json, tools_to_wire
from deepground.errors import AgentError, DeepgroundError, EndpointError
from deepground.messages import Message

_SYSTEM = (
    "You carry out the user's task with the tools, step by step, without asking for help. "
    "Look before you change anything. When the task is done, call finish with the answer."
)
_GO_ON = "Go on: the task is not done yet. Look at what there is, and try another way."
"""To a run that ended without success, from a person who says no more than that it is to go on."""
_LONGEST_DIFF = 200_000
"""Characters of the changes that the record holds."""
_CHARACTERS_PER_TOKEN = 3.0
"""Before the endpoint has counted anything: a cautious guess."""


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """How a run behaves."""

    budget: Budget = field(default_factory=Budget)
    rules: tuple[Rule, ...] = ()
    """After the house's own; see `approval`."""
    default_action: str = "allow"
    """For calls that no rule matches: allow (the tools of the house work inside the sandbox), ask or deny."""
    loop_limits: LoopLimits = field(default_factory=LoopLimits)
    most_checks: int = 5
    """Failed checks before the run ends as incomplete."""
    attempts: int = 1
    """How often the task is begun, all within one budget: after an attempt whose check does not pass, the workspace is
    put back as it was, and the model starts anew without having seen that attempt."""
    most_format_errors: int = 3
    """Replies in a row that cannot be used."""
    output_limit: int = 8192
    """Characters of one tool result that the model sees."""
    tool_seconds: float = 600.0
    answer_schema: Mapping[str, Any] | None = None
    """JSON Schema that the final answer must fit."""


class Agent:
    """One run of the agent.

    Args:
        task: what to do.
        model: who decides.
        later_model: who decides in attempts after the first: mostly the same, less certain of itself; else `model`.
        toolsets: what it can do; their checks all have to pass.
        runs: folder that the records of runs lie in.
        config: how the run behaves.
        workspace: the folder that the task is about.
        human: who approves and answers; nobody, if not given.
        listener: is told of every event as it happens.
        run_id: of an earlier run to resume; None: a new one.
        say: what a person says to a run that goes on.
        notes: what memory adds to the instructions.
        describe: settings to keep in the record, for `resume` and for people.

    Raises:
        AgentError: tools share a name, or the run to resume is another's.
    """

    def __init__(
        self, task: str, *, model: ChatModel, toolsets: Sequence[Toolset], runs: Path,
        config: AgentConfig | None = None, workspace: Path | None = None, human: Human | None = None,
        listener: Listener | None = None, run_id: str | None = None, say: str = "", notes: str = "",
        describe: Mapping[str, Any] | None = None, later_model: ChatModel | None = None,
    ) -> None:  # fmt: skip
        self._task = task
        self._model = model
        self._later_model = later_model or model
        self._toolsets = toolsets
        self._config = config or AgentConfig()
        self._say_first = say
        self._notes = notes
        self._describe = describe or {}
        self.cancelled = threading.Event()
        self.run_id = run_id or new_run_id()
        self._offered = [toolset.tools for toolset in toolsets]
        self._finish = finish_tool(self._config.answer_schema)
        self._offer()
        self._trajectory = Trajectory(runs / self.run_id, listener=listener)
        self._state = Conversation.of(self._trajectory.events)
        checks = [toolset.check for toolset in toolsets if toolset.check is not None]
        if self._trajectory.events:
            # What decides was settled at the beginning: tests that the model wrote since are no proof of its work.
            checks = [check for check in checks if check.name in self._trajectory.events[0]["checks"]]
        self._checks = checks
        self._context = ToolContext(
            artifacts=self._trajectory.folder / "files", workspace=workspace, cancelled=self.cancelled
        )
        self._context.artifacts.mkdir(exist_ok=True)
        self._per_token = _CHARACTERS_PER_TOKEN
        self._human = human or Nobody()

    def cancel(self) -> None:
        """Stop the run at the next opportunity; what is under way is ended."""
        self.cancelled.set()

    def run(self) -> Outcome:
        """Carry the task out, or go on with it.

        Raises:
            TrajectoryError: the record cannot be written.
        """
        if self._state.ended is not None and self._state.ended["status"] == "completed" and not self._say_first:
            self._trajectory.close()
            return self._outcome(self._state.ended)
        try:
            self._begin()
            status, reason = self._work()
            self._record(
                "run_ended", status=status, reason=reason, answer=self._answer_text(), data=self._answer_data(),
                spent=asdict(self._state.spent), files=self._state.files, diff=self._diff(),
            )  # fmt: skip
        finally:
            self._trajectory.close()
        assert self._state.ended is not None
        return self._outcome(self._state.ended)

    def _begin(self) -> None:
        for toolset in self._toolsets:
            if toolset.begin is not None:
                toolset.begin(self._context)
        if self._trajectory.events:
            ended = self._state.ended
            told = self._say_first or (_GO_ON if ended is not None and ended["status"] in CONCLUDED else "")
            self._record("run_resumed", said=told)
        else:
            self._record(
                "run_started", version=VERSION, run_id=self.run_id, task=self._task, tools=sorted(self._tools),
                checks=[check.name for check in self._checks], budget=asdict(self._config.budget),
                workspace=str(self._context.workspace) if self._context.workspace else None,
                tool_definitions=tools_to_wire(self._definitions), **self._describe,
            )  # fmt: skip
        # A kill may have come between any two of these.
        said = len(self._state.messages)
        if said == 0:
            instructions = [_SYSTEM, *(s.instructions for s in self._toolsets if s.instructions), self._notes]
            self._say(Message.system("\n\n".join(part for part in instructions if part)))
        if said <= 1:
            self._say(Message.user(self._task))

    def _work(self) -> tuple[Status, str]:
        try:
            while True:
                if ending := self._ending():
                    if not self._may_begin_anew(ending[0]):
                        return ending
                    self._begin_anew(ending[1])
                    continue
                if self._state.unanswered:
                    self._runner(self._deadline()).run_all(self._state, self._calls_left())
                elif self._state.final_text is not None:
                    self._consider(self._state.final_text)
                else:
                    self._mind_the_circle()
                    self._ask(self._deadline())
        except Cancelled:
            return "cancelled", "Stopped by the user."
        except EndpointError as error:
            if error.kind == "timeout":
                return "budget", "The budget of seconds is used up."
            return "error", str(error)

    def _ending(self) -> tuple[Status, str] | None:
        """Whether the run is over by now."""
        state, config = self._state, self._config
        if self.cancelled.is_set():
            return "cancelled", "Stopped by the user."
        if state.accepted is not None and state.accepted.get("gave_up"):
            return "incomplete", "The model says that it cannot be done."
        if state.passed is not None and not state.unanswered:
            if not self._checks:
                return "incomplete", "The model gave an answer; nothing verified it, because no check was given."
            report = state.passed["report"].splitlines()[0][:200]
            return "completed", f"Checked: {report}" + (f", at attempt {state.attempt}" if state.attempt > 1 else "")
        if state.failed_checks >= config.most_checks:
            return "incomplete", f"The check did not pass: {state.last_report.splitlines()[0][:200]}"
        if state.format_errors >= config.most_format_errors:
            return "stuck", f"{state.format_errors} replies in a row could not be used."
        if not state.unanswered and (limit := state.spent.over(config.budget)):
            return "budget", f"The budget of {limit.replace('_', ' ')} is used up."
        circle = find_circle(state.acts)
        if circle is not None and circle.times >= config.loop_limits.stop and state.nudged:
            return "stuck", circle.text.replace("You have", "The model has")
        return None

    def _offer(self) -> None:
        """Tools by name, and what the model is told about them."""
        self._tools = _by_name([*(tool for tools in self._offered for tool in tools), self._finish])
        self._definitions = [tool.definition() for tool in self._tools.values()]
        self._tools_size = sum(len(str(tool)) for tool in tools_to_wire(self._definitions))

    def _refresh_tools(self) -> None:
        for number, toolset in enumerate(self._toolsets):
            if toolset.refresh is not None and (tools := toolset.refresh()) is not None:
                self._offered[number] = tools
                self._offer()
                self._record("tools_changed", tools=sorted(self._tools))

    def _may_begin_anew(self, status: Status) -> bool:
        """Whether another attempt can help: there is a check, it does not pass, and the model did try."""
        state, config = self._state, self._config
        if status not in {"incomplete", "stuck"} or state.attempt >= config.attempts or state.spent.over(config.budget):
            return False
        if not self._checks or any(s.restore is None for s in self._toolsets if s.check is not None):
            return False
        gave_up = state.accepted is not None and state.accepted.get("gave_up")
        if gave_up and all(act.tool in {"", "finish"} for act in state.acts):
            return False  # an honest no, said at once, stays one
        result = self._verify(state.last_answer())
        return not result.passed and result.retry

    def _begin_anew(self, why: str) -> None:
        # Put back first: if a kill comes in between, it is put back once more.
        for toolset in self._toolsets:
            if toolset.restore is not None:
                toolset.restore(self._context)
        self._record("attempt", number=self._state.attempt + 1, why=why)

    def _ask(self, deadline: float) -> None:
        self._refresh_tools()
        self._make_room()
        self._record("model_call", step=self._state.spent.steps + 1)
        messages = list(self._state.messages)
        start = time.monotonic()
        for squeeze in (0.8, 0.6, 0.4, None):
            try:
                model = self._model if self._state.attempt == 1 else self._later_model
                reply = model.chat(
                    messages, self._definitions, cancelled=self.cancelled, deadline=deadline,
                    on_delta=self._tell_delta, attempt=self._state.spent.steps,
                )  # fmt: skip
                break
            except EndpointError as error:
                if error.kind != "overflow" or squeeze is None:
                    raise
                # The window is smaller than known, or not known: what was sent is too much, so aim below it.
                self._compact(int(size_of(messages) * squeeze), str(error))
                messages = list(self._state.messages)
        self._take(reply, size_of(messages), time.monotonic() - start)

    def _take(self, reply: Reply, sent: int, seconds: float) -> None:
        """Record a reply and say what is wrong with it, if it cannot be used."""
        size = sent + self._tools_size
        prompt_tokens = reply.prompt_tokens or (0 if reply.remembered else round(size / self._per_token))
        if reply.prompt_tokens > 100:
            self._per_token = size / reply.prompt_tokens
        completion_tokens = reply.completion_tokens
        if not completion_tokens and not reply.remembered:
            completion_tokens = round(size_of([reply.message]) / self._per_token)
        message = recover_calls(reply.message, self._tools)
        recovered = message is not reply.message
        more: dict[str, Any] = {"said": to_json(reply.message)} if recovered else {}
        if reply.remembered:
            more["remembered"] = reply.remembered
        self._record(
            "model_reply", step=self._state.spent.steps, message=to_json(message), finish_reason=reply.finish_reason,
            usage={"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}, seconds=round(seconds, 3),
            recovered=recovered, **more,
        )  # fmt: skip
        if message.tool_calls:
            return
        problem = ""
        if reply.finish_reason == "repetition":
            problem = "Your reply went round in circles and was stopped. Do one step: call a tool."
        elif reply.finish_reason == "length":
            problem = "Your reply was cut off at its longest allowed length. Be brief: call a tool, or give the answer."
        elif looks_like_a_call(message):
            problem = (
                "That looks like a tool call, but is none: it is not well-formed, or there is no such tool. Call again."
            )
        elif not message.text.strip():
            problem = "Your reply was empty. Call a tool, or give the answer."
        if problem:
            self._say(Message.user(problem), why="format")

    def _consider(self, answer: str) -> None:
        """Check an answer that came as text; what is missing goes back to the model."""
        data, problem = read_answer(answer, self._config.answer_schema)
        result = CheckResult(passed=False, report=problem) if problem else self._verify(answer)
        self._record_check(answer, data, result)
        if not result.passed:
            self._say(Message.user(result.report))

    def _accept(self, arguments: Mapping[str, Any]) -> ToolResult:
        """Decide about a finish call."""
        answer = arguments["answer"]
        text = answer if isinstance(answer, str) else str(answer)
        data = None if self._config.answer_schema is None else answer
        if arguments.get("status") == "cannot":
            reasons = [check.too_early(self._context) for check in self._checks if check.too_early is not None]
            if reason := next(filter(None, reasons), ""):
                return ToolResult(content=reason, is_error=True, error_kind="not_done")
            # An honest no needs no check, and is no success.
            self._record_check(text, data, CheckResult(passed=False, report="The model says that it cannot be done."))
            return ToolResult(content="Noted.", data={"answer": text, "gave_up": True})
        result = self._verify(text)
        self._record_check(text, data, result)
        if not result.passed:
            return ToolResult(content=result.report, is_error=True, error_kind="not_done")
        return ToolResult(content="Accepted.", data={"answer": text, "data": data})

    def _diff(self) -> str:
        try:
            diff = "".join(toolset.diff(self._context) for toolset in self._toolsets if toolset.diff is not None)
        except DeepgroundError as error:  # what was done is done, and its record must not be lost over this
            return f"(the changes cannot be shown: {error})"
        if len(diff) <= _LONGEST_DIFF:
            return diff
        whole = self._context.artifacts / "changes.patch"
        whole.write_text(diff, errors="replace")
        left_out = len(diff) - _LONGEST_DIFF
        return f"{diff[:_LONGEST_DIFF]}\n[... {left_out} characters left out; all of it is in {whole} ...]\n"

    def _verify(self, answer: str) -> CheckResult:
        reports = []
        for check in self._checks:
            try:
                result = check.run(answer, self._context)
            except Exception as error:  # a check that breaks has not passed
                result = CheckResult(passed=False, report=f"{check.name} broke: {type(error).__name__}: {error}")
            if not result.passed:
                return CheckResult(
                    passed=False, report=f"Not done yet. {result.report}", data=result.data, retry=result.retry
                )
            reports.append(result.report)
        if not self._checks and self._state.open_todos and not self._state.failed_checks:
            left = "; ".join(self._state.open_todos)
            return CheckResult(
                passed=False, report=f"Your list still has: {left}. Go on, or say why they are not needed."
            )
        return CheckResult(passed=True, report="; ".join(reports) or "There was nothing to check.")

    def _record_check(self, answer: str, data: Any, result: CheckResult) -> None:
        names = ", ".join(check.name for check in self._checks) or "none"
        self._record(
            "check", name=names, passed=result.passed, report=result.report, data=result.data, answer=answer,
            answer_data=data,
        )  # fmt: skip

    def _mind_the_circle(self) -> None:
        circle = find_circle(self._state.acts[self._state.nudged :])
        if circle is not None and circle.times >= self._config.loop_limits.nudge:
            self._say(Message.user(circle.text), why="circle")

    def _make_room(self) -> None:
        window = self._model.window
        if window is None:
            return
        size = size_of(self._state.messages) + self._tools_size
        if size / self._per_token > window * TRIGGER:
            self._compact(int(window * TARGET * self._per_token) - self._tools_size, "")

    def _compact(self, room: int, why: str) -> None:
        before = size_of(self._state.messages)
        plan = plan_compaction(self._state.messages, room=room)
        if plan is None or before <= room:
            window = (
                f"The model's context of {self._model.window} tokens" if self._model.window else "The model's context"
            )
            raise EndpointError(
                f"{window} is too small for the instructions, the {len(self._tools)} tools and the task. "
                f"Use a model with a larger one, or fewer tools: --tools. {why}".strip(),
                kind="refused",
            )
        self._record("compaction", **asdict(plan), before=before)

    def _runner(self, deadline: float) -> CallRunner:
        window = self._model.window
        limit = self._config.output_limit
        if window is not None:  # one result must not fill a small window
            limit = min(limit, max(400, int(window * self._per_token / 6)))
        context = ToolContext(
            artifacts=self._context.artifacts, workspace=self._context.workspace, deadline=deadline,
            cancelled=self.cancelled,
        )  # fmt: skip
        rules = (Rule(tool="*", action=self._config.default_action), *HOUSE_RULES, *self._config.rules)  # type: ignore[arg-type]
        return CallRunner(
            tools=self._tools, rules=rules, human=self._human, record=self._record, context=context, output_limit=limit,
            tool_seconds=self._config.tool_seconds, accept=self._accept,
        )  # fmt: skip

    def _calls_left(self) -> int | None:
        limit = self._config.budget.tool_calls
        return None if limit is None else max(0, limit - self._state.spent.tool_calls)

    def _deadline(self) -> float:
        limit = self._config.budget.seconds
        return float("inf") if limit is None else time.monotonic() + max(0.0, limit - self._state.spent.seconds)

    def _say(self, message: Message, **more: Any) -> None:
        self._record("message", message=to_json(message), **more)

    def _record(self, kind: str, **fields: Any) -> Event:
        event = self._trajectory.add(kind, **fields)
        self._state.apply(event)
        return event

    def _tell_delta(self, kind: str, piece: str) -> None:
        self._trajectory.tell({"seq": -1, "time": time.time(), "type": "delta", "kind": kind, "text": piece})

    def _answer_text(self) -> str:
        source = self._state.accepted or self._state.passed
        return str(source["answer"]) if source else self._state.last_answer()

    def _answer_data(self) -> Any:
        return self._state.passed.get("answer_data") if self._state.passed else None

    def _outcome(self, ended: Event) -> Outcome:
        return Outcome(
            run_id=self.run_id, status=ended["status"], reason=ended["reason"], answer=ended["answer"],
            data=ended["data"], spent=self._state.spent, files=tuple(self._state.files), diff=ended.get("diff", ""),
        )  # fmt: skip


def new_run_id() -> str:
    """Sorts by time, and is nobody else's."""
    return f"{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def _by_name(tools: Sequence[Tool]) -> dict[str, Tool]:
    found: dict[str, Tool] = {}
    for tool in tools:
        if tool.name in found:
            raise AgentError(f"Two tools are called {tool.name!r}. Leave one of their toolsets out.")
        found[tool.name] = tool
    return found
