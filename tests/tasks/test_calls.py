"""Calls of functions: every expected call fits the offered schema, and its values stand in the request."""

import json
import re

import jsonschema
import pytest

from deepground.tasks import TASKS, Problem
from deepground.tasks.calls import calls_in
from deepground.tasks.functions import functions

NAMES = ("function_call", "parallel_calls", "tool_results")


def problems(name: str, count: int, **arguments: object) -> list[Problem]:
    return [TASKS[name].generate(seed, **arguments) for seed in range(count)]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("split", ["train", "test"])
def test_calls_fit_their_functions(name: str, split: str) -> None:
    for p in problems(name, 150, split=split):
        offered = {tool.name: tool for tool in p.tools}
        assert len(offered) == len(p.tools)
        made = [*p.calls, *(call for message in p.context for call in message.tool_calls)]
        for call in made:
            jsonschema.validate(json.loads(call.arguments), offered[call.name].parameters)


def test_values_are_said_in_the_request() -> None:
    for p in problems("function_call", 300):
        for call in p.calls:
            for value in json.loads(call.arguments).values():
                if isinstance(value, str) and not re.fullmatch(r"\d{4}-\d\d-\d\d|\d\d:\d\d", value):
                    assert value in p.question


def test_every_function_has_words_for_both_splits_and_languages() -> None:
    for function in functions():
        for language in ("en", "zh"):
            seen, unseen = function.requests(language, "train"), function.requests(language, "test")
            assert seen
            assert unseen
            assert not {*seen} & {*unseen}
            for template in (*seen, *unseen):
                assert {*re.findall(r"{(\w+)}", template)} == {*function.arguments}
        for argument, templates in function.missing.items():
            for template in templates:
                assert {*re.findall(r"{(\w+)}", template)} == {*function.arguments} - {argument}
        for reply in (function.reply_english, function.reply_chinese):
            assert {*re.findall(r"{(\w+)}", reply)} == {*function.result}


def test_requests_that_cannot_be_called() -> None:
    kinds = {"call": 0, "missing": 0, "no_tool": 0}
    for p in problems("function_call", 300, level=4):
        kinds[p.meta["kind"]] += 1
        assert bool(p.calls) == (p.meta["kind"] == "call")
    assert min(kinds.values()) > 25


@pytest.mark.parametrize("name", NAMES)
def test_own_replies_are_right_and_junk_is_not(name: str) -> None:
    task = TASKS[name]
    for p in problems(name, 100, split="test"):
        assert task.grade(p, p.answer) == 1.0
        for junk in ("", "foo", "get_weather({})", "{}", p.answer.replace('": ', '": 9')):
            if junk != p.answer:
                assert task.grade(p, junk) == 0.0, (p.answer, junk)


def test_calls_may_come_in_any_order_but_none_may_lack_or_be_doubled() -> None:
    task = TASKS["parallel_calls"]
    p = next(p for p in problems("parallel_calls", 50, level=3) if len(p.calls) == 3)
    lines = p.answer.split("\n")
    assert task.grade(p, "\n".join(reversed(lines))) == 1.0
    assert task.grade(p, "\n".join(lines[:-1])) == 0.0
    assert task.grade(p, "\n".join([*lines, lines[0]])) == 0.0


def test_a_question_for_what_is_missing_names_it() -> None:
    task = TASKS["function_call"]
    p = next(p for p in problems("function_call", 100, level=3) if p.meta["kind"] == "missing")
    argument = p.meta["argument"]
    assert task.grade(p, f"Which {argument}?") == 1.0
    assert task.grade(p, "Please tell me more.") == 0.0


def test_results_are_repeated_in_full_and_nothing_is_made_up() -> None:
    task = TASKS["tool_results"]
    for p in problems("tool_results", 100):
        assert task.grade(p, p.answer + " 4711") == 0.0
        for value in p.meta["needed"]:
            assert task.grade(p, re.sub(re.escape(value), "", p.answer, flags=re.IGNORECASE)) == 0.0


def test_calls_are_read_line_by_line() -> None:
    assert calls_in('f({"a": 1})\ng({})') == [("f", {"a": 1}), ("g", {})]
    assert calls_in("Hello.") == []
    assert calls_in("f({a})") is None
