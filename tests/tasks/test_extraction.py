"""JSON extraction: the text says what the answer holds, names of the test split are new, and graders compare values."""

import json
import re

import pytest

from deepground.tasks import TASKS, Problem
from deepground.tasks.entities import CITIES, CITIES_ZH, is_held_out
from deepground.tasks.extraction import fields_right, parse_object

NAMES = ("order_extraction", "invoice_extraction", "appointment_extraction", "trip_request")


def problems(name: str, count: int, **arguments: object) -> list[Problem]:
    return [TASKS[name].generate(seed, **arguments) for seed in range(count)]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_the_answer_is_json_with_the_keys_asked_for(name: str) -> None:
    for p in problems(name, 200):
        values = json.loads(p.answer)
        assert values == p.meta["values"]
        for key in values:
            assert re.search(rf"(?<![a-z]){key}(?![a-z])", p.question), (key, p.question)


@pytest.mark.parametrize("name", NAMES)
def test_texts_are_copied_from_the_question(name: str) -> None:
    for p in problems(name, 200):
        for key, value in p.meta["values"].items():
            if isinstance(value, str) and not re.fullmatch(r"\d{4}-\d\d-\d\d|\d\d:\d\d", value):
                assert value in p.question, key
            if isinstance(value, int) and value > 10:
                assert str(value) in re.sub(r"(?<=\d),(?=\d{3})", "", p.question), key


@pytest.mark.parametrize("name", NAMES)
def test_the_trace_converts_what_is_written_otherwise(name: str) -> None:
    for p in problems(name, 200):
        for line in p.trace.split("\n"):
            if line == "copy":
                continue
            key, _, rest = line.partition(": ")
            written, _, value = rest.rpartition("=")
            assert rest == "null" or written in p.question
            expected = p.meta["values"][key]
            assert expected is None if rest == "null" else value == str(expected)


@pytest.mark.parametrize("name", NAMES)
def test_missing_values_are_null(name: str) -> None:
    nulls = [p for p in problems(name, 300, level=4) if None in p.meta["values"].values()]
    assert 20 < len(nulls) < 280


@pytest.mark.parametrize("name", NAMES)
def test_half_of_the_test_questions_are_worded_anew(name: str) -> None:
    assert not any(p.meta["unseen_instruction"] for p in problems(name, 200))
    assert 60 < sum(p.meta["unseen_instruction"] for p in problems(name, 200, split="test")) < 140


@pytest.mark.parametrize("split", ["train", "test"])
def test_cities_belong_to_one_split(split: str) -> None:
    known = {*CITIES, *CITIES_ZH}
    for p in problems("trip_request", 300, split=split):
        for key in ("origin", "destination"):
            if (city := p.meta["values"].get(key)) in known:
                assert is_held_out(city) == (split == "test")


@pytest.mark.parametrize("name", NAMES)
def test_graders_compare_values_and_types(name: str) -> None:
    task = TASKS[name]
    for p in problems(name, 40, split="test"):
        values = json.loads(p.answer)
        right = (p.answer, f"```json\n{p.answer}\n```", json.dumps(dict(reversed(list(values.items()))), indent=1))
        assert [task.grade(p, reply) for reply in right] == [1.0] * 3
        key = next(iter(values))
        wrong = (
            {**values, key: "other"},
            {k: v for k, v in values.items() if k != key},
            {**values, "more": 1},
            {k: str(v) if isinstance(v, int) else v for k, v in values.items()},
        )
        for changed in wrong:
            assert task.grade(p, json.dumps(changed)) == float(changed == values)
        for junk in ("", "null", "[]", "{}", f"[{p.answer}]", f"It is {p.answer}", p.answer + p.answer, p.answer[:-1]):
            assert task.grade(p, junk) == 0.0


def test_fields_are_counted_one_by_one() -> None:
    p = next(p for p in problems("order_extraction", 50, level=4) if len(p.meta["values"]) > 2)
    values = json.loads(p.answer)
    first, *_ = values
    assert fields_right(p, p.answer) == (len(values), len(values))
    assert fields_right(p, json.dumps({**values, first: "wrong"})) == (len(values) - 1, len(values))
    assert fields_right(p, "no JSON") == (0, len(values))


def test_only_one_object_is_an_object() -> None:
    assert parse_object(' {"a": 1} ') == {"a": 1}
    assert parse_object('```\n{"a": 1}\n```') == {"a": 1}
    assert parse_object("[1]") is None
    assert parse_object('{"a": 1} {"a": 1}') is None
