"""How lessons are used: the calls of a verified run are made again, and short notes are added to the instructions.

Following a procedure costs no request to the model. It ends at the first result that differs from what it was: from
there on the model decides, with everything that has happened before it. Whatever was followed, the run's check decides
whether the task is done.
"""

from __future__ import annotations

import math
import re
import threading
from collections import Counter
from collections.abc import Iterable, Sequence

from deepground.agent.endpoint import ChatModel, Reply
from deepground.agent.memory.lessons import Lesson, normal
from deepground.agent.stream import OnDelta
from deepground.messages import Message, Tool, ToolCallPart

NOTE_CHARACTERS = 1200
"""Of all notes together: a few hundred tokens."""
SMALL_WINDOW = 8192
"""Tokens; a model with less gets no notes: it has no room for them, and is thrown by instructions it never met."""
_MOST_NOTES = 6
_ALIKE = 0.35
"""Cosine of two tasks' words from which on one says something about the other."""
_WORD = re.compile(r"[a-z_][a-z0-9_]+|[\u3400-\u9fff]|\d+")


def procedure_for(
    task: str, tools: Iterable[str], lessons: Sequence[Lesson], *, workspace: str | None = None
) -> Lesson | None:
    """The procedure for exactly this task in this folder, if there is one and its tools are offered."""
    wanted, offered = normal(task), {*tools, "finish"}
    for lesson in reversed(lessons):
        here = lesson.kind == "procedure" and lesson.workspace == workspace and not lesson.is_expired
        if here and normal(lesson.task) == wanted:
            return lesson if offered.issuperset(lesson.tools) else None
    return None


def notes_for(task: str, tools: Iterable[str], lessons: Sequence[Lesson], *, window: int | None) -> str:
    """What to add to the instructions: rules about the tools that are offered, and how tasks like this one were done.

    Args:
        task: what the user wants.
        tools: names of the tools that are offered.
        lessons: all that are kept.
        window: context of the model in tokens; None: not known.
    """
    if window is not None and window < SMALL_WINDOW:
        return ""
    offered = {*tools, "finish"}
    usable = [lesson for lesson in lessons if not lesson.is_expired and offered.issuperset(lesson.tools)]
    procedures = [lesson for lesson in usable if lesson.kind == "procedure"]
    ranked = sorted(
        zip(_likeness(task, [p.task for p in procedures]), procedures, strict=True), key=lambda pair: -pair[0]
    )
    chosen = [lesson for score, lesson in ranked[:2] if score >= _ALIKE]
    chosen += sorted((lesson for lesson in usable if lesson.kind == "rule"), key=lambda rule: -len(rule.runs))
    notes: list[str] = []
    for lesson in chosen[:_MOST_NOTES]:
        line = f"- {lesson.text}"
        if sum(map(len, notes)) + len(line) <= NOTE_CHARACTERS:
            notes.append(line)
    return "From earlier runs, as hints; what you see now counts more:\n" + "\n".join(notes) if notes else ""


class RememberingModel:
    """A model that does a known task as it was done before, as long as all goes as it went then.

    It keeps no state: what to do next follows from the conversation, so that a run can be resumed.

    Args:
        model: who decides where memory ends.
        procedure: what to follow.
    """

    def __init__(self, model: ChatModel, procedure: Lesson) -> None:
        self._model = model
        self._procedure = procedure

    @property
    def window(self) -> int | None:
        """See `ChatModel`."""
        return self._model.window

    def chat(
        self, messages: Sequence[Message], tools: Sequence[Tool], *, cancelled: threading.Event, deadline: float,
        on_delta: OnDelta | None = None, attempt: int = 0,
    ) -> Reply:  # fmt: skip
        """See `ChatModel`."""
        number = self._followed(messages)
        if number is None:
            return self._model.chat(
                messages, tools, cancelled=cancelled, deadline=deadline, on_delta=on_delta, attempt=attempt
            )
        calls = tuple(
            ToolCallPart(f"remembered-{number}-{n}", name, arguments)
            for n, (name, arguments) in enumerate(self._procedure.steps[number].calls)
        )
        message = Message.assistant("", tool_calls=calls)
        return Reply(
            message=message, finish_reason="tool_calls", prompt_tokens=0, completion_tokens=0,
            remembered=self._procedure.id,
        )  # fmt: skip

    def _followed(self, messages: Sequence[Message]) -> int | None:
        """The step to make next; None: the conversation is another than it was."""
        done = 0
        for message in messages:
            if message.role == "assistant":
                calls = tuple((call.name, call.arguments) for call in message.tool_calls)
                if done >= len(self._procedure.steps) or calls != self._procedure.steps[done].calls:
                    return None
                done += 1
        answers = [message.text for message in messages if message.role == "tool"]
        expected = [text for step in self._procedure.steps[:done] for text in step.results]
        if answers != expected or any(message.role == "user" for message in messages[2:]):
            return None
        return done if done < len(self._procedure.steps) else None


def _likeness(task: str, others: Sequence[str]) -> list[float]:
    """Cosine of the words of a task with those of others; a word counts less the more tasks have it."""
    bags = [Counter(_WORD.findall(normal(text))) for text in (task, *others)]
    tasks_with = Counter(word for bag in bags for word in bag)
    weights = [{word: n * math.log(1 + len(bags) / tasks_with[word]) for word, n in bag.items()} for bag in bags]
    norms = [math.sqrt(sum(value**2 for value in weight.values())) or 1.0 for weight in weights]
    mine = weights[0]
    return [
        sum(mine.get(word, 0.0) * value for word, value in weight.items()) / (norms[0] * norm)
        for weight, norm in zip(weights[1:], norms[1:], strict=True)
    ]
