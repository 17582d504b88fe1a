"""Verified runs as training data for `deepground train sft`: one conversation a line, as the model met it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from deepground.agent.conversation import Conversation
from deepground.agent.trajectory import Event, read_events
from deepground.agent.wire import to_json
from deepground.errors import TrajectoryError


def export_runs(folders: Iterable[Path], output: Path) -> tuple[int, dict[str, int]]:
    """Write the conversations of runs whose check passed.

    Left out are runs that did not complete, those that lost parts of their conversation (the model did not see what it
    would be trained on), and those that followed a procedure from memory (nobody decided anything in them).

    Args:
        folders: of runs.
        output: a JSONL file; written whole or not at all.

    Returns:
        How many were written, and how many were left out for which reason.

    Raises:
        TrajectoryError: a run cannot be read.
    """
    lines, left_out = [], dict[str, int]()
    for folder in folders:
        events = read_events(folder)
        reason = _unfit(events)
        if reason:
            left_out[reason] = left_out.get(reason, 0) + 1
        else:
            lines.append(json.dumps(_conversation(events), ensure_ascii=False))
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(output.name + ".partial")
    partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", errors="replace")
    partial.replace(output)
    return len(lines), left_out


def _unfit(events: list[Event]) -> str:
    if not events:
        raise TrajectoryError("A run has no events.")
    if events[-1]["type"] != "run_ended" or events[-1]["status"] != "completed":
        return "not verified"
    if any(event["type"] == "compaction" for event in events):
        return "conversation shortened"
    if any(event["type"] == "model_reply" and event.get("remembered") for event in events):
        return "followed from memory"
    if "tool_definitions" not in events[0]:
        return "tools not recorded"
    return ""


def _conversation(events: list[Event]) -> dict[str, Any]:
    messages = [to_json(message) for message in Conversation.of(events).messages]
    if messages[-1]["role"] == "tool":
        messages.pop()  # the acceptance of the answer, which the model did not see
    return {"messages": messages, "tools": events[0]["tool_definitions"], "run": events[0]["run_id"]}
