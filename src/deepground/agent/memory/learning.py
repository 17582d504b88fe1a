"""What a run teaches: read from its record alone, and only if its check passed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from deepground.agent.memory.lessons import Lesson, Memory, Step, normal
from deepground.agent.trajectory import Event

LONGEST_PROCEDURE = 20_000
"""Characters of all calls and results; what is longer is not worth repeating blindly."""
_LONGEST_TASK = 2000


def learn(events: Sequence[Event], memory: Memory) -> list[Lesson]:
    """Keep what a run teaches, and how it fared with what it was taught.

    Returns:
        The lessons of this run; none unless it completed.
    """
    ended = next((event for event in reversed(events) if event["type"] == "run_ended"), None)
    if ended is None or ended["status"] in {"cancelled", "error"}:
        return []  # says nothing about what was tried
    completed = ended["status"] == "completed"
    for lesson_id in dict.fromkeys(
        e["remembered"] for e in events if e["type"] == "model_reply" and e.get("remembered")
    ):
        memory.note_use(lesson_id, worked=completed)
    if not completed:
        return []
    lessons = lessons_of(events)
    memory.add(lessons)
    return lessons


def lessons_of(events: Sequence[Event]) -> list[Lesson]:
    """The lessons of a completed run."""
    start, end = events[0], events[-1]
    turns = _turns(events)
    source: dict[str, Any] = {"runs": (str(start["run_id"]),), "learned": float(end["time"])}
    lessons = _rules(turns, source)
    steps = _steps(turns)
    task = str(start["task"])
    size = sum(len(part) for step in steps for part in (*(a for _, a in step.calls), *step.results))
    # A run that had lost parts of its conversation cannot be followed word by word.
    whole = not any(event["type"] == "compaction" for event in events)
    short = size <= LONGEST_PROCEDURE and len(task) <= _LONGEST_TASK
    if steps and whole and short and _looks_first(turns):
        names = [name for step in steps for name, _ in step.calls]
        tools = tuple(dict.fromkeys(names))
        text = f"The task {normal(task)[:200]!r} was done with: {', '.join(names[:12])}."
        workspace = start.get("workspace")
        lesson_id = _id("procedure", normal(task), str(workspace), *sorted(start.get("tools", [])))
        lessons.append(
            Lesson(
                id=lesson_id,
                kind="procedure",
                text=text,
                tools=tools,
                task=task,
                steps=tuple(steps),
                workspace=workspace,
                **source,
            )
        )
    return lessons


def _turns(events: Sequence[Event]) -> list[tuple[Event, list[Event]]]:
    """Each reply that called tools, with the results of its calls in the order of the calls."""
    results = {event["call_id"]: event for event in events if event["type"] == "tool_result"}
    turns = []
    for event in events:
        if event["type"] == "model_reply" and event["message"].get("tool_calls"):
            calls = [call["id"] for call in event["message"]["tool_calls"]]
            turns.append((event, [results[call] for call in calls if call in results]))
    return turns


def _steps(turns: Sequence[tuple[Event, list[Event]]]) -> list[Step]:
    """What has to be done again: without the calls that failed and without those that only the list of steps needs."""
    steps = []
    for reply, results in turns:
        calls = reply["message"]["tool_calls"]
        if len(results) != len(calls):
            return []
        kept = [
            ((call["function"]["name"], call["function"]["arguments"]), result["content"])
            for call, result in zip(calls, results, strict=True)
            if not result["is_error"] and call["function"]["name"] != "todo"
        ]
        if kept:
            steps.append(Step(calls=tuple(call for call, _ in kept), results=tuple(text for _, text in kept)))
    if not steps or steps[-1].calls[-1][0] != "finish":
        return []
    return steps


def _looks_first(turns: Sequence[tuple[Event, list[Event]]]) -> bool:
    """Whether something was looked at before anything was done that must not be done blindly.

    Following stops at the first result that is another than it was; a procedure that begins with a command would have
    done its harm by then.
    """
    for _, results in turns:
        good = [result for result in results if not result["is_error"] and result["name"] != "todo"]
        if any(result["effect"] == "once" for result in good):
            return False
        if good:
            return True
    return False


def _rules(turns: Sequence[tuple[Event, list[Event]]], source: Mapping[str, Any]) -> list[Lesson]:
    """For each call that failed and later succeeded: what was called in between."""
    calls = [result for _, results in turns for result in results]
    lessons: dict[str, Lesson] = {}
    for number, failed in enumerate(calls):
        if not failed["is_error"] or failed["error_kind"] in {"", "denied", "fault", "timeout", "not_done"}:
            continue
        later = next((n for n in range(number + 1, len(calls)) if _puts_right(calls[n], failed)), None)
        if later is None:
            continue
        between = [call["name"] for call in calls[number + 1 : later] if not call["is_error"]]
        name, kind = failed["name"], failed["error_kind"]
        first = f"call {', '.join(dict.fromkeys(between))} first, then {name} again" if between else (
            f"change the arguments and call {name} again"
        )  # fmt: skip
        lesson_id = _id("rule", name, kind)
        lessons[lesson_id] = Lesson(
            id=lesson_id, kind="rule", text=f"When {name} fails ({kind.replace('_', ' ')}), {first}.",
            tools=tuple(dict.fromkeys((name, *between))), **source,
        )  # fmt: skip
    return list(lessons.values())


def _puts_right(later: Event, failed: Event) -> bool:
    return bool(later["name"] == failed["name"] and not later["is_error"])


def _id(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()[:10]
