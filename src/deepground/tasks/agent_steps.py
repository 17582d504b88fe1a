"""Common part of the tasks whose problems are one step of an agent's run.

The conversation is what the agent's loop shows the model: its system prompt, the user's task, and the calls and results
so far. The reply is the next call, or the last one, `finish`.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from deepground.messages import Message, Tool, ToolCallPart
from deepground.tasks.calls import calls_in
from deepground.tasks.entities import CHINESE_SHARE, Language
from deepground.tasks.problem import Draft, Problem, ProceduralTask, Split, reply_text

SYSTEM = (
    "You carry out the user's task with the tools, step by step, without asking for help. "
    "Look before you change anything. When the task is done, call finish with the answer."
)
"""As the agent's loop writes it."""
FINISH = Tool(
    "finish",
    "End the task. status done: it is done; cannot: it cannot be done, and the answer says why.",
    {
        "type": "object",
        "properties": {"answer": {"type": "string"}, "status": {"enum": ["done", "cannot"]}},
        "required": ["answer"],
    },
)
OUT_OF_REACH = {"en": "My tools cannot do that.", "zh": "我的工具做不到這件事。"}


@dataclass(frozen=True)
class Step:
    """One step of a run: what was said so far, and the call that comes next."""

    task: str
    past: tuple[tuple[ToolCallPart, str], ...]
    """Calls and their results, oldest first."""
    next: ToolCallPart
    needed: tuple[str, ...] = ()
    """What the answer of a `finish` must say."""
    kind: str = "call"
    meta: Mapping[str, Any] = field(default_factory=dict)
    """More for the grader."""


def call(name: str, arguments: Mapping[str, Any]) -> ToolCallPart:
    """A call; the loop numbers it when it is placed."""
    return ToolCallPart("call", name, json.dumps(dict(arguments), ensure_ascii=False))


def finish(answer: str, status: str = "done") -> ToolCallPart:
    """The call that ends a run."""
    return call("finish", {"answer": answer, "status": status})


class AgentTask(ProceduralTask):
    """Operands are whole steps, made for one split, since names and wordings decide it."""

    tools: tuple[Tool, ...]

    @abstractmethod
    def step(self, rng: Random, split: Split, level: int, language: Language) -> Step:
        """A step of a run."""

    def draw(self, rng: Random, level: int) -> Step:
        """A problem of the training split."""
        return self._draw_from_split(rng, "train", level)

    def canonical(self, operands: Step) -> str:
        """The task and the reply."""
        return f"{operands.task} {operands.next.arguments}"

    def build(self, operands: Step, rng: Random) -> Draft:
        """The conversation as the loop shows it; the tools in any order."""
        messages = [Message.system(SYSTEM), Message.user(operands.task)]
        for number, (made, result) in enumerate(operands.past):
            placed = ToolCallPart(f"call_{number}", made.name, made.arguments)
            messages += [Message.assistant(tool_calls=(placed,)), Message.tool(placed.id, result)]
        following = ToolCallPart(f"call_{len(operands.past)}", operands.next.name, operands.next.arguments)
        tools = (*rng.sample(self.tools, len(self.tools)), FINISH)
        meta = {"kind": operands.kind, "needed": operands.needed, **operands.meta}
        reply = reply_text("", (following,))
        return Draft(operands.task, reply, (), meta, tools, tuple(messages), (following,))

    def grade(self, problem: Problem, reply: str) -> float:
        """The same call with the same values, lists as sets; a `finish` by its status and what it must say."""
        found = calls_in(reply)
        if found is None or len(found) != 1:
            return 0.0
        (name, given), wanted = found[0], problem.calls[0]
        if name != wanted.name:
            return 0.0
        expected = json.loads(wanted.arguments)
        if name != "finish":
            return float(_plain(given) == _plain(expected))
        answer = str(given.get("answer", "")).lower()
        said: Sequence[str] = problem.meta["needed"]
        right = given.get("status", "done") == expected["status"] and bool(answer.strip())
        return float(right and all(value.lower() in answer for value in said))

    def _draw_from_split(self, rng: Random, split: Split, level: int) -> Step:
        language: Language = "zh" if rng.random() < CHINESE_SHARE else "en"
        return self.step(rng, split, level, language)


def _plain(value: Any) -> Any:
    """Values to compare: the order of destinations counts, that of other lists does not."""
    if not isinstance(value, dict):
        return value
    return {
        key: sorted(part, key=str) if isinstance(part, list) and key != "destinations" else part
        for key, part in value.items()
    }
