"""The state of a run, folded from its events: what the model has been told, what it still owes, what was spent. Pure.

The loop decides from this alone, so a run that is resumed goes on exactly as one that was never interrupted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from deepground.agent.guard import Act
from deepground.agent.outcome import CONCLUDED, Spent
from deepground.agent.trajectory import Event
from deepground.agent.wire import from_json
from deepground.messages import Message, ToolCallPart


@dataclass
class Conversation:
    """What the events say so far."""

    messages: list[Message] = field(default_factory=list)
    acts: list[Act] = field(default_factory=list)
    """Calls and refused answers, for the guard; a nudge that was heeded starts them anew."""
    nudged: int = 0
    """How many acts there were at the last nudge."""
    spent: Spent = field(default_factory=Spent)
    begun: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Calls whose tool was started and has not answered, by id."""
    approvals: dict[str, bool] = field(default_factory=dict)
    failed_checks: int = 0
    last_report: str = ""
    """Of the latest check."""
    format_errors: int = 0
    """In a row."""
    passed: Mapping[str, Any] | None = None
    """The check event that accepted the answer, once there is one."""
    accepted: Mapping[str, Any] | None = None
    """What the accepted finish call said."""
    ended: Event | None = None
    todo: list[Mapping[str, Any]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    attempt: int = 1
    """How often the task was begun."""
    changed: bool = False
    """A tool that changes things ran since the last check."""
    _open: dict[str, ToolCallPart] = field(default_factory=dict)
    _clock: float = 0.0

    @classmethod
    def of(cls, events: Iterable[Event]) -> Conversation:
        """The state after these events."""
        state = cls()
        for event in events:
            state.apply(event)
        return state

    @property
    def unanswered(self) -> list[ToolCallPart]:
        """Calls of the last reply that have no result yet, in order."""
        return list(self._open.values())

    @property
    def final_text(self) -> str | None:
        """The last message, if the model said it and asked for nothing in it; None: it is the model's turn."""
        if self.messages and self.messages[-1].role == "assistant" and not self.messages[-1].tool_calls:
            return self.messages[-1].text
        return None

    @property
    def open_todos(self) -> list[str]:
        """What the model's own list says is not done."""
        return [str(item["task"]) for item in self.todo if item.get("status") != "done"]

    def last_answer(self) -> str:
        """The latest text of the model."""
        said = (m.text for m in reversed(self.messages) if m.role == "assistant" and m.text)
        return next(said, "")

    def apply(self, event: Event) -> None:
        """One more event; types that tell the state nothing are passed over."""
        if event["type"] in {"run_started", "run_resumed"}:
            self._clock = event["time"]
        if event["type"] not in {"approval", "answer"}:  # a person took that long
            self.spent.seconds += max(0.0, event["time"] - self._clock)
        self._clock = event["time"]
        if handler := _HANDLERS.get(event["type"]):
            handler(self, event)

    def _run_resumed(self, event: Event) -> None:
        """What ended the run no longer counts: a person wants it to go on."""
        if self.ended is not None and self.ended["status"] in CONCLUDED:
            self._count_anew()
        self.ended = None
        if event.get("said"):
            self.messages.append(Message.user(event["said"]))

    def _count_anew(self) -> None:
        self.acts, self.nudged = [], 0
        self.failed_checks = self.format_errors = 0
        self.passed = self.accepted = None

    def _message(self, event: Event) -> None:
        self.messages.append(from_json(event["message"]))
        if event.get("why") == "format":
            self.format_errors += 1
        if event.get("why") == "circle":
            self.nudged = len(self.acts)

    def _model_call(self, event: Event) -> None:
        del event
        self.spent.steps += 1

    def _model_reply(self, event: Event) -> None:
        message = from_json(event["message"])
        self.messages.append(message)
        if event.get("remembered"):
            self.spent.steps -= 1  # memory was asked, not the model
        self._open = {call.id: call for call in message.tool_calls}
        usage = event["usage"]
        self.spent.prompt_tokens += usage["prompt_tokens"]
        self.spent.completion_tokens += usage["completion_tokens"]
        self.spent.tokens += usage["prompt_tokens"] + usage["completion_tokens"]

    def _tool_call(self, event: Event) -> None:
        self.begun[event["call_id"]] = event
        self.spent.tool_calls += 1

    def _approval(self, event: Event) -> None:
        self.approvals[event["call_id"]] = event["approved"]

    def _tool_result(self, event: Event) -> None:
        call_id = event["call_id"]
        self.begun.pop(call_id, None)
        self._open.pop(call_id, None)
        self._insert_result(Message.tool(call_id, event["content"]))
        self.acts.append(
            Act(
                tool=event["name"],
                what=event["arguments_text"],
                result=event["content"],
                error_kind=event["error_kind"] if event["is_error"] else "",
            )
        )
        if event["error_kind"] not in {"invalid_arguments", "unknown_tool"}:
            self.format_errors = 0
        self.files += [file for file in event.get("files", []) if file not in self.files]
        if event.get("effect") != "read" and not event["is_error"]:
            self.changed = True
        if event["name"] == "todo" and event["data"]:
            self.todo = list(event["data"]["todo"])
        if event.get("accepted") is not None:
            self.accepted = event["accepted"]

    def _insert_result(self, result: Message) -> None:
        """Results stand in the order of their calls, in whatever order they came: some formats have no ids."""
        start = max(n for n, message in enumerate(self.messages) if message.role == "assistant")
        order = {call.id: n for n, call in enumerate(self.messages[start].tool_calls)}

        def place(message: Message) -> int:
            return order.get(getattr(message.parts[0], "call_id", ""), len(order))

        tail = [*self.messages[start + 1 :], result]
        results = sorted((m for m in tail if m.role == "tool"), key=place)
        self.messages[start + 1 :] = [*results, *(m for m in tail if m.role != "tool")]

    def _check(self, event: Event) -> None:
        self.passed = event if event["passed"] else None
        self.last_report = event["report"] or "no report"
        self.changed = False
        if not event["passed"]:
            self.failed_checks += 1
            self.acts.append(Act(tool="", what=event["answer"], result=event["report"], error_kind=""))

    def _compaction(self, event: Event) -> None:
        kept, dropped = event["kept_first"], event["dropped"]
        summary = [Message.user(event["summary"])] if event["summary"] else []
        tail = self.messages[kept + dropped :]
        if limit := event.get("shortened_to"):
            tail = [shortened(message, limit) for message in tail]
        self.messages = [*self.messages[:kept], *summary, *tail]

    def _attempt(self, event: Event) -> None:
        """Back to the instructions and the task; what was spent and made stays."""
        task = next(n for n, message in enumerate(self.messages) if message.role == "user")
        self.messages = self.messages[: task + 1]
        self.attempt = event["number"]
        self.todo = []
        self._count_anew()
        self.begun, self.changed, self._open = {}, False, {}

    def _run_ended(self, event: Event) -> None:
        self.ended = event


_HANDLERS = {
    "run_resumed": Conversation._run_resumed,
    "message": Conversation._message,
    "model_call": Conversation._model_call,
    "model_reply": Conversation._model_reply,
    "tool_call": Conversation._tool_call,
    "tool_result": Conversation._tool_result,
    "approval": Conversation._approval,
    "check": Conversation._check,
    "compaction": Conversation._compaction,
    "attempt": Conversation._attempt,
    "run_ended": Conversation._run_ended,
}


def shortened(message: Message, limit: int) -> Message:
    """A tool's result cut to its beginning and end; other messages as they are."""
    if message.role != "tool" or len(message.text) <= limit:
        return message
    half = limit // 2
    text = message.text
    call_id = getattr(message.parts[0], "call_id", "")
    return Message.tool(call_id, f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}")
