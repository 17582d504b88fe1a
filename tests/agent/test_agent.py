"""The loop against a scripted endpoint: how runs go and how they end."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from agent.agent_samples import ALWAYS, check, looks, of_type, run_script, text_tool
from agent.scripted_endpoint import Endless, Fails, Raw, Reply, call, finish
from deepground.agent.agent import AgentConfig
from deepground.agent.guard import LoopLimits
from deepground.agent.outcome import Budget
from deepground.agent.tools import ToolFailure
from deepground.errors import AgentError


def test_calls_are_carried_out_and_the_answer_checked(tmp_path: Path) -> None:
    outcome, events, endpoint = run_script([call("look"), finish("on")], tmp_path)
    assert (outcome.status, outcome.answer, outcome.exit_code) == ("completed", "on", 0)
    assert outcome.reason == "Checked: the light is on"
    assert endpoint.requests[1]["messages"][-1]["content"] == "a wall"
    kinds = [event["type"] for event in events]
    assert kinds[:5] == ["run_started", "message", "message", "model_call", "model_reply"]
    assert kinds[5:8] == ["tool_call", "tool_result", "model_call"]
    assert kinds[-1] == "run_ended"


def test_answer_as_text_is_checked_too(tmp_path: Path) -> None:
    outcome, _, _ = run_script([call("look"), Reply("It is on.")], tmp_path)
    assert (outcome.status, outcome.answer) == ("completed", "It is on.")


def test_thinking_goes_back_with_the_calls_that_it_led_to(tmp_path: Path) -> None:
    think = Reply(reasoning="Let me look.", calls=(("look", {}),))
    _, _, endpoint = run_script([think, finish()], tmp_path)
    assert endpoint.requests[1]["messages"][2]["reasoning_content"] == "Let me look."


class TestClaimsOfSuccess:
    def test_done_without_a_passing_check_is_incomplete(self, tmp_path: Path) -> None:
        outcome, _, _ = run_script([Reply("Done!")] * 2, tmp_path, checked=check(lambda _: False), complete=False,
                                   config=AgentConfig(most_checks=2))  # fmt: skip
        assert (outcome.status, outcome.exit_code) == ("incomplete", 4)

    def test_finish_without_a_passing_check_is_refused_with_the_report(self, tmp_path: Path) -> None:
        steps = [finish("done"), call("look"), finish("really")]
        outcome, events, endpoint = run_script(steps, tmp_path, checked=check(lambda answer: answer == "really"))
        assert outcome.status == "completed"
        assert "the light is off" in endpoint.requests[1]["messages"][-1]["content"]
        assert [event["passed"] for event in of_type(events, "check")] == [False, True]

    def test_without_a_check_nothing_is_called_completed(self, tmp_path: Path) -> None:
        outcome, _, _ = run_script([finish("on")], tmp_path, checked=None)
        assert outcome.status == "incomplete"
        assert "nothing verified it" in outcome.reason
        assert outcome.answer == "on"

    def test_check_that_breaks_has_not_passed(self, tmp_path: Path) -> None:
        outcome, events, _ = run_script([finish("on")] * 2, tmp_path, checked=check(lambda _: 1 / 0 > 1),
                                        config=AgentConfig(most_checks=2))  # fmt: skip
        assert outcome.status == "incomplete"
        assert "ZeroDivisionError" in of_type(events, "check")[0]["report"]

    def test_an_honest_no_is_no_success(self, tmp_path: Path) -> None:
        outcome, _, _ = run_script([finish("no switch", status="cannot")], tmp_path)
        assert (outcome.status, outcome.answer) == ("incomplete", "no switch")

    def test_open_todos_are_brought_up_once(self, tmp_path: Path) -> None:
        from deepground.agent.tools.todo import todo_tool

        todo = call("todo", items=[{"task": "find the switch", "status": "open"}])
        outcome, _, endpoint = run_script(
            [todo, Reply("done"), Reply("not needed")], tmp_path, todo_tool(), checked=None
        )
        assert outcome.status == "incomplete"
        assert "find the switch" in endpoint.requests[2]["messages"][-1]["content"]

    def test_same_claim_again_and_again_is_stuck(self, tmp_path: Path) -> None:
        config = AgentConfig(most_checks=20)
        outcome, _, _ = run_script([Reply("Done!")], tmp_path, checked=check(lambda _: False), repeat_last=True,
                                   config=config, complete=False)  # fmt: skip
        assert outcome.status == "stuck"


class TestCallsThatCannotBeRun:
    @pytest.mark.parametrize(
        ("name", "arguments", "said"),
        [
            ("fly", {}, "There is no tool 'fly'"),
            ("look", "{not json", "not a JSON object"),
            ("look", "[1]", "a list, not an object"),
            ("look", '"text"', "not a JSON object"),
            ("look", "NaN", "not a JSON object"),
            ("strict", {"n": "three"}, "n: 'three' is not of type 'integer'"),
            ("strict", {}, "'n' is a required property"),
            ("breaks", {}, "ZeroDivisionError"),
            ("fails", {}, "try the cellar"),
        ],
    )
    def test_the_model_is_told(self, tmp_path: Path, name: str, arguments: object, said: str) -> None:
        def fail() -> str:
            raise ToolFailure("not here; try the cellar", kind="not_found")

        tools = (
            looks(),
            text_tool(
                "strict",
                lambda n: str(n),
                schema={"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
            ),
            text_tool("breaks", lambda: str(1 // 0)),
            text_tool("fails", fail),
        )
        outcome, events, endpoint = run_script(
            [Reply(calls=((name, arguments),)), call("look"), finish()], tmp_path, *tools
        )
        assert outcome.status == "completed"
        assert said in endpoint.requests[1]["messages"][-1]["content"]
        assert of_type(events, "tool_result")[0]["is_error"]

    @pytest.mark.parametrize("arguments", ['json\n{"a": 1}', '```json\n{"a": 1}\n```', '"{\\"a\\": 1}"', ""])
    def test_what_is_nearly_json_is_read(self, tmp_path: Path, arguments: str) -> None:
        _, events, _ = run_script([Reply(calls=(("look", arguments),)), finish()], tmp_path)
        assert not of_type(events, "tool_result")[0]["is_error"]

    def test_invalid_arguments_do_not_poison_the_history(self, tmp_path: Path) -> None:
        """The scripted endpoint refuses a history with arguments that are no object, as real servers do."""
        steps = [Reply(calls=(("look", "{broken"), ("look", '["x"]'))), call("look"), call("look"), finish()]
        outcome, events, _ = run_script(steps, tmp_path)
        assert outcome.status == "completed"
        first = of_type(events, "model_reply")[0]["message"]["tool_calls"][0]
        assert first["function"]["arguments"] == "{broken"

    def test_ids_that_are_missing_or_shared(self, tmp_path: Path) -> None:
        steps = [
            Reply(calls=(("look", {}), ("look", {}), ("look", {})), ids=("same", "same", "")),
            finish(),
        ]
        outcome, events, _ = run_script(steps, tmp_path)
        assert outcome.status == "completed"
        assert len({event["call_id"] for event in of_type(events, "tool_result")}) == 4

    def test_ids_that_come_again_in_later_replies(self, tmp_path: Path) -> None:
        steps = [Reply(calls=(("look", {"n": n}),), ids=("call_0",)) for n in range(3)]
        outcome, _, endpoint = run_script([*steps, finish()], tmp_path)
        assert outcome.status == "completed"
        assert [m["role"] for m in endpoint.requests[-1]["messages"][2:]] == ["assistant", "tool"] * 3


class TestParallelCalls:
    def test_reading_runs_beside_each_other_and_results_keep_their_order(self, tmp_path: Path) -> None:
        barrier = threading.Barrier(3, timeout=5)

        def meet(n: int) -> str:
            barrier.wait()
            time.sleep(0.05 * (3 - n))
            return f"result {n}"

        steps = [Reply(calls=tuple(("meet", {"n": n}) for n in range(3))), finish()]
        _, _, endpoint = run_script(steps, tmp_path, text_tool("meet", meet))
        assert [m["content"] for m in endpoint.requests[1]["messages"][-3:]] == [f"result {n}" for n in range(3)]

    def test_what_changes_something_runs_alone_and_in_order(self, tmp_path: Path) -> None:
        busy, seen = threading.Lock(), []

        def change(n: int) -> str:
            assert busy.acquire(blocking=False)
            time.sleep(0.02)
            seen.append(n)
            busy.release()
            return "ok"

        steps = [Reply(calls=tuple(("change", {"n": n}) for n in range(4))), finish()]
        _, events, _ = run_script(steps, tmp_path, text_tool("change", change, effect="once"))
        assert seen == [0, 1, 2, 3]
        assert not any(event["is_error"] for event in of_type(events, "tool_result"))

    def test_calls_on_one_resource_do_not_run_beside_each_other(self, tmp_path: Path) -> None:
        busy = threading.Lock()

        def read(path: str) -> str:
            assert busy.acquire(blocking=False)
            time.sleep(0.02)
            busy.release()
            return path

        tool = text_tool("read", read, resources=lambda arguments: (str(arguments["path"]),))
        steps = [Reply(calls=(("read", {"path": "a"}), ("read", {"path": "a"}))), finish()]
        _, events, _ = run_script(steps, tmp_path, tool)
        assert not any(event["is_error"] for event in of_type(events, "tool_result"))


class TestBudgets:
    def test_steps(self, tmp_path: Path) -> None:
        config = AgentConfig(budget=Budget(steps=3))
        steps = [call("look", n=n) for n in range(9)]
        outcome, _, endpoint = run_script(list(steps), tmp_path, config=config, complete=False)
        assert (outcome.status, outcome.exit_code, len(endpoint.requests)) == ("budget", 6, 3)
        assert "steps" in outcome.reason

    def test_tokens(self, tmp_path: Path) -> None:
        config = AgentConfig(budget=Budget(tokens=1000))
        steps = [Reply(calls=(("look", {"n": n}),), prompt_tokens=400) for n in range(9)]
        outcome, _, endpoint = run_script(list(steps), tmp_path, config=config, complete=False)
        assert (outcome.status, len(endpoint.requests)) == ("budget", 3)

    def test_tokens_are_estimated_where_the_endpoint_does_not_count(self, tmp_path: Path) -> None:
        config = AgentConfig(budget=Budget(tokens=600))
        steps = [Reply(calls=(("look", {"n": n}),), prompt_tokens=0) for n in range(30)]
        outcome, _, _ = run_script(list(steps), tmp_path, config=config, complete=False)
        assert outcome.status == "budget"

    def test_tool_calls_in_one_reply(self, tmp_path: Path) -> None:
        config = AgentConfig(budget=Budget(tool_calls=5))
        steps = [Reply(calls=tuple(("look", {"n": n}) for n in range(20)))]
        outcome, events, _ = run_script(list(steps), tmp_path, config=config)
        assert outcome.status == "budget"
        assert len(of_type(events, "tool_call")) == 5
        assert len(of_type(events, "tool_result")) == 20

    def test_seconds_end_a_reply_that_does_not_end(self, tmp_path: Path) -> None:
        config = AgentConfig(budget=Budget(seconds=0.4))
        outcome, _, _ = run_script([Raw(b": hello\n\n", then_stall=3)], tmp_path, config=config)
        assert outcome.status == "budget"
        assert outcome.spent.seconds < 2

    def test_seconds_end_a_tool(self, tmp_path: Path) -> None:
        config = AgentConfig(budget=Budget(seconds=0.5))
        start = time.monotonic()
        sleeper = text_tool("sleep", lambda: str(time.sleep(8)))
        outcome, _, _ = run_script([call("sleep")], tmp_path, sleeper, config=config)
        assert outcome.status == "budget"
        assert time.monotonic() - start < 7

    def test_no_limit_below_or_at_zero(self) -> None:
        with pytest.raises(AgentError, match="steps"):
            Budget(steps=0)


class TestCircles:
    def test_same_call_is_nudged_then_stuck(self, tmp_path: Path) -> None:
        outcome, events, _ = run_script([call("look")], tmp_path, repeat_last=True, complete=False)
        assert (outcome.status, outcome.exit_code) == ("stuck", 5)
        assert len(of_type(events, "tool_call")) == LoopLimits().stop
        assert any("same call" in event["message"]["content"] for event in of_type(events, "message"))

    def test_alternating_calls(self, tmp_path: Path) -> None:
        steps = [call("look"), call("listen")] * 20
        outcome, events, _ = run_script(steps, tmp_path, looks(), looks("listen", "silence"), complete=False)
        assert outcome.status == "stuck"
        assert len(of_type(events, "tool_call")) == 2 * LoopLimits().stop

    def test_empty_results_with_other_arguments(self, tmp_path: Path) -> None:
        steps = [call("look", n=n) for n in range(40)]
        outcome, _, _ = run_script(list(steps), tmp_path, looks(answer="[]"), complete=False)
        assert outcome.status == "stuck"

    def test_same_failure_with_other_arguments(self, tmp_path: Path) -> None:
        steps = [Reply(calls=((f"fly{n}", {}),)) for n in range(40)]
        outcome, _, _ = run_script(list(steps), tmp_path, complete=False, config=AgentConfig())
        assert outcome.status in {"stuck", "budget"}
        steps = [Reply(calls=(("look", f"{{broken {n}"),)) for n in range(40)]
        outcome, _, _ = run_script(list(steps), tmp_path, complete=False)
        assert outcome.status == "stuck"

    def test_progress_is_no_circle(self, tmp_path: Path) -> None:
        counter = iter(range(100))
        tool = text_tool("look", lambda: f"page {next(counter)}")
        outcome, _, _ = run_script([*[call("look")] * 12, finish()], tmp_path, tool)
        assert outcome.status == "completed"

    @pytest.mark.parametrize("where", ["content", "reasoning_content"])
    def test_reply_without_end(self, tmp_path: Path, where: str) -> None:
        outcome, events, _ = run_script([Endless(where=where)], tmp_path, repeat_last=True, complete=False)
        assert outcome.status == "stuck"
        assert {event["finish_reason"] for event in of_type(events, "model_reply")} == {"repetition"}

    def test_empty_replies(self, tmp_path: Path) -> None:
        outcome, _, _ = run_script([Reply()], tmp_path, repeat_last=True, complete=False)
        assert outcome.status == "stuck"

    def test_calls_that_cannot_be_run_are_no_progress(self, tmp_path: Path) -> None:
        babble = Reply("and so on", finish_reason="length")
        broken = [Reply(calls=((f"look{n}", {}),)) for n in range(9)]
        steps = [step for pair in zip([babble] * 9, broken, strict=True) for step in pair]
        outcome, _, endpoint = run_script(steps, tmp_path, complete=False)
        assert (outcome.status, len(endpoint.requests)) == ("stuck", 5)

    def test_replies_that_are_cut_off(self, tmp_path: Path) -> None:
        cut = Reply("and so on", finish_reason="length")
        outcome, _, endpoint = run_script([cut, cut, finish()], tmp_path)
        assert outcome.status == "completed"
        assert "cut off" in endpoint.requests[1]["messages"][-1]["content"]


class TestLeakedCalls:
    CALLS = (
        '<tool_call>\n{"name": "look", "arguments": {"n": 1}}\n</tool_call>',
        '<｜DSML｜function_calls>\n<｜DSML｜invoke name="look">\n<｜DSML｜parameter name="n" string="false">1'
        "</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>",
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>look\n```json\n{"n": 1}\n```'
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>look<｜tool▁sep｜>{"n": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        "<tool_call>\n<function=look>\n<parameter=n>\n1\n</parameter>\n</function>\n</tool_call>",
    )

    @pytest.mark.parametrize("text", CALLS)
    @pytest.mark.parametrize("piece", [1, 3, 1000])
    def test_whole_call_in_the_text_is_carried_out(self, tmp_path: Path, text: str, piece: int) -> None:
        outcome, events, _ = run_script([Reply(f"I look.\n{text}", piece=piece), finish()], tmp_path)
        assert outcome.status == "completed"
        assert of_type(events, "tool_result")[0]["content"] == "a wall"
        assert of_type(events, "model_reply")[0]["recovered"]
        assert of_type(events, "model_reply")[0]["message"]["content"] == "I look."

    @pytest.mark.parametrize("text", CALLS)
    def test_call_inside_the_thinking(self, tmp_path: Path, text: str) -> None:
        _, events, _ = run_script([Reply(reasoning=f"Hm. {text}"), finish()], tmp_path)
        assert of_type(events, "tool_result")[0]["content"] == "a wall"

    @pytest.mark.parametrize("text", CALLS)
    def test_torn_call_is_no_answer(self, tmp_path: Path, text: str) -> None:
        _, _, endpoint = run_script([Reply(text[: len(text) * 2 // 3]), finish()], tmp_path)
        assert "looks like a tool call" in endpoint.requests[1]["messages"][-1]["content"]

    def test_call_of_an_unknown_tool_is_no_answer(self, tmp_path: Path) -> None:
        text = self.CALLS[0].replace("look", "fly")
        _, _, endpoint = run_script([Reply(text), finish()], tmp_path)
        assert "looks like a tool call" in endpoint.requests[1]["messages"][-1]["content"]

    def test_prose_about_a_marker_is_prose(self, tmp_path: Path) -> None:
        text = "A model writes <tool_call> before a call, and </tool_call> after it."
        outcome, _, _ = run_script([Reply(text)], tmp_path)
        assert (outcome.status, outcome.answer) == ("completed", text)


class TestStructuredAnswer:
    CONFIG = AgentConfig(answer_schema={"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})

    def test_by_finish(self, tmp_path: Path) -> None:
        outcome, _, endpoint = run_script([finish({"n": "x"}), finish({"n": 3})], tmp_path, config=self.CONFIG)
        assert (outcome.status, outcome.data) == ("completed", {"n": 3})
        assert "is not of type 'integer'" in endpoint.requests[1]["messages"][-1]["content"]

    def test_as_text(self, tmp_path: Path) -> None:
        steps = [Reply("three"), Reply('```json\n{"n": 3}\n```')]
        outcome, _, _ = run_script(list(steps), tmp_path, config=self.CONFIG)
        assert (outcome.status, outcome.data) == ("completed", {"n": 3})

    def test_schema_that_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(AgentError, match=r"\$.type"):
            run_script([], tmp_path, config=AgentConfig(answer_schema={"type": "integr"}))


class TestEnds:
    def test_endpoint_that_refuses_is_an_error(self, tmp_path: Path) -> None:
        outcome, _, _ = run_script([Fails(401, "bad key")], tmp_path)
        assert (outcome.status, outcome.exit_code) == ("error", 1)
        assert "DEEPGROUND_API_KEY" in outcome.reason

    def test_cancelled_in_a_reply(self, tmp_path: Path) -> None:
        from agent.scripted_endpoint import ScriptedEndpoint
        from deepground.agent.agent import Agent
        from deepground.agent.endpoint import Endpoint, EndpointConfig
        from deepground.agent.tools import Toolset

        with ScriptedEndpoint([Raw(b": hello\n\n", then_stall=5)]) as scripted:
            endpoint = Endpoint(EndpointConfig(base_url=scripted.base_url))
            agent = Agent("x", model=endpoint, toolsets=[Toolset(name="t", tools=(looks(),))], runs=tmp_path)
            threading.Timer(0.2, agent.cancel).start()
            start = time.monotonic()
            outcome = agent.run()
            assert time.monotonic() - start < 2
            endpoint.close()
        assert (outcome.status, outcome.exit_code) == ("cancelled", 130)

    def test_two_tools_of_one_name(self, tmp_path: Path) -> None:
        with pytest.raises(AgentError, match="look"):
            run_script([], tmp_path, looks(), looks(), checked=ALWAYS)
