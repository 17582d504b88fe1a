"""Freight quotations: the tariff, both ways of thinking, and the grader."""

from __future__ import annotations

import re
from random import Random

import pytest

from deepground.errors import TaskError
from deepground.tasks import DOMAINS, TASK_WEIGHTS, Problem, find_task
from deepground.tasks.freight import Freight, teacher_trace
from deepground.tasks.problem import Split
from deepground.tasks.tariff import CITY_ZH, Shipment, quotation, tariff_document

TASK = Freight()


def problems(count: int, split: Split = "train", level: int | None = None) -> list[Problem]:
    return [TASK.generate(seed, split, level) for seed in range(count)]


@pytest.mark.parametrize(
    ("shipment", "price"),
    [
        (Shipment("Osaka", (42,)), 42 * (78 + 14)),
        (Shipment("Osaka", (45,)), 45 * (69 + 14)),
        (Shipment("Osaka", (42,), 50), 50 * (69 + 14)),
        (Shipment("London", (5,)), 1900),
        (Shipment("London", (5,), None, ("pickup",), True), 1900 + 450 - 300),
        (Shipment("New York", (30, 20), None, ("cold chain", "customs clearance")), 50 * (157 + 23) + 2400 + 900),
    ],
)
def test_the_tariff(shipment: Shipment, price: int) -> None:
    assert quotation(shipment) == price


def test_worked_ways_end_with_the_sum() -> None:
    for p in problems(400) + problems(60, level=5):
        digits = re.sub(r"[a-z]", "", p.trace.splitlines()[-1].split()[-1])
        assert int(digits) == int(p.answer), (p.question, p.trace)


def test_the_grader_takes_the_sum_and_nothing_else() -> None:
    for p in problems(50):
        assert TASK.grade(p, p.answer) == 1.0
        assert TASK.grade(p, f"NT${int(p.answer):,}") == 1.0
        assert TASK.grade(p, f"{p.answer} TWD") == 1.0
        assert TASK.grade(p, str(int(p.answer) + 1)) == 0.0
        assert TASK.grade(p, "I cannot say.") == 0.0


def test_a_talkative_teacher_is_mostly_right() -> None:
    rng = Random(0)
    made = [(p, *teacher_trace(p, rng)) for p in problems(600)]
    right = sum(answer == p.answer for p, _, answer in made) / len(made)
    assert 0.84 < right < 0.94
    assert all(answer in trace for _, trace, answer in made)
    words = sorted(len(trace.split()) / len(p.trace.split()) for p, trace, _ in made)
    assert words[len(words) // 2] > 1.5, "not talkative"


def test_splits_share_no_shipment_and_half_of_the_test_words_are_new() -> None:
    train, test = problems(3000), problems(300, "test")
    assert not {repr(p.meta["shipment"]) for p in train} & {repr(p.meta["shipment"]) for p in test}
    shape = re.compile(r"\d+")
    seen = {_template(p, shape) for p in train}
    unseen = sum(_template(p, shape) not in seen for p in test) / len(test)
    assert 0.3 < unseen < 0.8


def _template(p: Problem, shape: re.Pattern[str]) -> str:
    names = [name for pair in CITY_ZH.items() for name in pair]
    text = next((p.question.replace(name, "X") for name in names if name in p.question), p.question)
    return shape.sub("N", text)


def test_the_pilot_never_sees_it() -> None:
    assert "freight" not in TASK_WEIGHTS
    assert find_task("freight") is DOMAINS["freight"]
    with pytest.raises(TaskError, match="no level 9"):
        TASK.generate(0, level=9)


def test_the_document_states_every_price() -> None:
    text = tariff_document()
    for value in ("| B | Tokyo 東京", "| 78 | 69 | 14 | 1000 |", "dangerous goods 危險品: 1800", "From 45 kg"):
        assert value in text
