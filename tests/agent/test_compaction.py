"""Conversations that outgrow the window: what is dropped, and that it never splits a call from its result."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from agent.agent_samples import looks, of_type, run_script, text_tool
from agent.scripted_endpoint import Fails, Json, Reply, call, fault_of, finish
from deepground.agent.compaction import plan_compaction, size_of, summarise
from deepground.agent.conversation import shortened
from deepground.agent.wire import to_wire
from deepground.messages import Message, ToolCallPart


def turn(number: int, size: int, calls: int = 1) -> list[Message]:
    made = tuple(ToolCallPart(f"c{number}_{n}", "look", json.dumps({"at": number})) for n in range(calls))
    return [Message.assistant(tool_calls=made), *(Message.tool(c.id, f"{number} " + "x" * size) for c in made)]


def conversation(*turns: list[Message]) -> list[Message]:
    return [Message.system("Instructions."), Message.user("The task."), *(m for turn in turns for m in turn)]


class TestPlan:
    def test_random_conversations_stay_whole(self) -> None:
        rng = random.Random(0)
        for _ in range(300):
            turns = [turn(n, rng.randint(0, 3000), rng.randint(1, 3)) for n in range(rng.randint(1, 12))]
            messages = conversation(*turns)
            room = rng.randint(600, 12_000)
            plan = plan_compaction(messages, room=room)
            if plan is None:
                continue
            kept = messages[: plan.kept_first]
            tail = messages[plan.kept_first + plan.dropped :]
            if plan.shortened_to:
                tail = [shortened(message, plan.shortened_to) for message in tail]
            summary = [Message.user(plan.summary)] if plan.summary else []
            after = [*kept, *summary, *tail]
            assert [m.text for m in after[:2]] == ["Instructions.", "The task."]
            assert fault_of({"messages": [to_wire(message) for message in after]}) == ""
            assert size_of(after) <= room + 16

    def test_the_mildest_way_first(self) -> None:
        messages = conversation(turn(1, 1000), turn(2, 1000), turn(3, 1000))
        plan = plan_compaction(messages, room=2800)
        assert plan is not None
        assert (plan.dropped, plan.shortened_to) == (2, None)
        assert "- look(at=1) -> 1 xxx" in plan.summary

    def test_a_single_huge_result_is_cut(self) -> None:
        plan = plan_compaction(conversation(turn(1, 50_000)), room=6000)
        assert plan is not None
        assert (plan.dropped, plan.shortened_to) == (0, 4000)

    def test_a_reply_that_is_too_long_itself(self) -> None:
        babble = [Message.assistant("er" * 5000), Message.user("Be brief.")]
        plan = plan_compaction(conversation(turn(1, 10), babble), room=2000)
        assert plan is not None
        assert plan.dropped == 3
        call = Message.assistant(tool_calls=(ToolCallPart("c", "look", "er" * 5000),))
        plan = plan_compaction(conversation([call, Message.tool("c", "no")]), room=2000)
        assert plan is not None
        assert (plan.dropped, "look(erer" in plan.summary) == (2, True)

    def test_what_cannot_fit(self) -> None:
        assert plan_compaction(conversation(turn(1, 10)), room=20) is None
        assert plan_compaction(conversation(), room=5) is None

    def test_summary_of_a_summary(self) -> None:
        first = summarise(conversation(turn(1, 10))[2:], most=1000)
        second = summarise([Message.user(first), *turn(2, 10)], most=1000)
        assert second.count("To save room") == 1
        assert second.index("look(at=1)") < second.index("look(at=2)")
        assert "earlier steps left out" in summarise([Message.user(second), *turn(3, 10)], most=60)


class TestRuns:
    def test_run_in_a_small_window(self, tmp_path: Path) -> None:
        """Forty steps in a window that holds about eight; no request is ever too long, and the task stays in it."""

        def check(request: Json) -> Reply:
            assert len(json.dumps(request)) // 4 < 3000
            assert request["messages"][1]["content"] == "Turn the light on."
            return call("look", n=len(request["messages"]))

        counter = iter(range(1000))
        tool = text_tool("look", lambda **_: f"page {next(counter)} " + "x" * 900)
        outcome, events, _ = run_script(
            [check] * 40 + [finish()], tmp_path, tool, model={"id": "small", "context_length": 3000}
        )
        assert outcome.status == "completed"
        assert len(of_type(events, "compaction")) >= 3
        assert all(event["dropped"] % 2 == 0 or event["summary"] for event in of_type(events, "compaction"))

    def test_server_that_knows_better(self, tmp_path: Path) -> None:
        """The window is not known, and the server refuses what is too long for it."""
        too_long = Fails(400, "This model's maximum context length is 2048 tokens.", code="context_length_exceeded")
        counter = iter(range(1000))
        tool = text_tool("look", lambda **_: f"page {next(counter)} " + "x" * 3000)
        steps = [call("look", n=1), call("look", n=2), call("look", n=3), too_long, finish()]
        outcome, events, endpoint = run_script(list(steps), tmp_path, tool)
        assert outcome.status == "completed"
        assert len(of_type(events, "compaction")) == 1
        assert len(json.dumps(endpoint.requests[4])) < len(json.dumps(endpoint.requests[3]))

    def test_server_that_cuts_silently(self, tmp_path: Path) -> None:
        """Some servers drop the beginning, tools and all, and say nothing: the count of tokens betrays them."""
        tool = text_tool("look", lambda **_: "word " * 3000)
        cut = Reply("I forgot the task.", prompt_tokens=200)
        outcome, events, _ = run_script([call("look"), cut, finish()], tmp_path, tool, model={"id": "m"})
        assert outcome.status == "completed"
        assert len(of_type(events, "compaction")) == 1

    def test_window_smaller_than_the_instructions(self, tmp_path: Path) -> None:
        outcome, _, endpoint = run_script([], tmp_path, model={"id": "tiny", "context_length": 64})
        assert outcome.status == "error"
        assert "too small for the instructions" in outcome.reason
        assert endpoint.requests == []

    def test_unknown_window_is_not_guessed(self, tmp_path: Path) -> None:
        tool = text_tool("look", lambda **_: "x" * 8000)
        steps = [call("look", n=n) for n in range(12)]
        _, events, _ = run_script([*steps, finish()], tmp_path, tool)
        assert of_type(events, "compaction") == []


@pytest.mark.parametrize("size", [100, 8192, 8193, 2_000_000])
def test_long_outputs_are_cut_and_kept(tmp_path: Path, size: int) -> None:
    text = "".join(str(n % 10) for n in range(size))
    _, events, endpoint = run_script([call("look"), finish()], tmp_path, looks(answer=text))
    shown = endpoint.requests[1]["messages"][-1]["content"]
    result = of_type(events, "tool_result")[0]
    if size <= 8192:
        assert (shown, result["spilled"]) == (text, None)
        return
    assert len(shown) < 8400
    assert shown.startswith(text[:4000])
    assert shown.endswith(text[-4000:])
    assert Path(result["spilled"]).read_text() == text
