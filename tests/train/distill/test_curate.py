"""Which answers stay, and what is told of the others."""

from __future__ import annotations

from typing import Any

import pytest

from deepground.errors import TrainingError
from deepground.messages import Message
from deepground.tasks.graders import Grade
from deepground.train.answering import Answer, Question, Reply
from deepground.train.distill import CurationRules, QualityRules, contaminated, curate, near_duplicates, screen
from deepground.train.distill.curate import screen_by_student
from deepground.train.distill.overlap import template_of

STEPS = "First I add the tens, which gives fifty, then the units, which gives eight more."


def question(id_: str, text: str = "", answer: str = "7", suite: str = "s") -> Question:
    return Question(
        id=id_,
        messages=(Message.user(text or f"Question {id_}?"),),
        answer=answer,
        grader={"type": "exact"},
        suite=suite,
    )


def answer(of: Question, sample: int = 0, verdict: Any = "right", **reply: Any) -> Answer:
    fields = {"text": "7", "reasoning": f"{STEPS} {sample}", "completion_tokens": 20, **reply}
    return Answer(of, "default", sample, Reply(**fields), Grade(verdict, "detail"))


@pytest.mark.parametrize(
    ("changes", "fate"),
    [
        ({}, "kept"),
        ({"error": "503"}, "no reply"),
        ({"text": " "}, "empty"),
        ({"text": "", "reasoning": ""}, "empty"),
        ({"finish_reason": "length"}, "cut off"),
        ({"completion_tokens": 1_000_000}, "too long"),
        ({"reasoning": ""}, "no thinking"),
        ({"reasoning": "so <think> again"}, "rubbish"),
        ({"reasoning": "wait " * 2000}, "rubbish"),
        ({"reasoning": "\ufffd\ufffd\ufffd\ufffd"}, "rubbish"),
        ({"verdict": "timeout"}, "undecided"),
        ({"verdict": "wrong"}, "wrong"),
        ({"reasoning": "先把十位相加，再把個位相加，得到五十八。"}, "language"),
    ],
)
def test_every_fault_has_a_name(changes: dict[str, Any], fate: str) -> None:
    one = question("a")
    (decision,) = curate([one], [answer(one, **changes)], CurationRules()).decisions
    assert decision.fate == fate


def test_chinese_questions_want_chinese_thinking() -> None:
    one = question("a", "三十加二十八等於多少？")
    good, bad = answer(one, 0, reasoning="先加十位，得五十，再加八。"), answer(one, 1)
    assert [d.fate for d in curate([one], [good, bad], CurationRules()).decisions] == ["kept", "language"]


def test_an_answer_in_the_question_is_found() -> None:
    rows = {
        "a": "What is 3 + 4? (Answer: 7)",
        "b": "Solve it. Expected answer is 7",
        "c": "3 + 4 等於多少？答案：7",
        "d": "What is 3 + 4?",
        "e": "The answer sheet has 70 boxes. What is 3 + 4?",
    }
    found = screen([question(id_, text) for id_, text in rows.items()], CurationRules())
    assert {id_ for id_, (fate, _) in found.items() if fate == "answer in question"} == {"a", "b", "c"}


def test_questions_that_differ_in_a_number_are_different() -> None:
    text = "A farmer has {} sheep and buys {} more on Sunday at the market in town. How many does he have now?"
    texts = [text.format(3, 4), text.format(3, 5), text.format(3, 4).replace("farmer", "shepherd"), "else 3 4"]
    assert near_duplicates(texts, 0.7, same_numbers=True) == [None, None, 0, None]
    assert template_of(texts) == [0, 0, 0, 3]
    assert near_duplicates(["a", "A!", "b"], 1.0, same_numbers=True) == [None, 0, None]


def test_contamination_is_found_and_templates_are_not_it() -> None:
    shared = "Sort the following list of whole numbers from small to large please: {}"
    texts = [shared.format(f"{n} {n + 3} {n + 1}") for n in range(40)]
    texts += [
        "A merchant from the north sells nine barrels of salted herring for twelve silver coins",
        "What is 2 + 2?",
    ]
    evaluation = [
        shared.format("900 901 902"),
        "Once a merchant from the north sells nine barrels of salted herring, how rich is he?",
        "what is 2 + 2",
        texts[7],
    ]
    found = contaminated(texts, evaluation, 8)
    assert set(found) == {7, 40, 41}
    assert "merchant from the north" in found[40]


def test_the_students_pass_rate_decides_difficulty() -> None:
    rates = {"easy": 1.0, "fine": 0.5, "hard": 0.0}
    found = screen_by_student(rates, CurationRules(easiest=0.9, hardest=0.1))
    assert {id_: fate for id_, (fate, _) in found.items()} == {"easy": "too easy", "hard": "too hard"}


def test_the_best_of_each_question_comes_first() -> None:
    questions = [question(str(n), f"Name the {n}th planet?", suite="ab"[n % 2]) for n in range(4)]
    other = "Counting from the sun outwards one meets rock, rock, water, rock and then plenty of gas"
    answers = [
        a
        for q in questions
        for a in (answer(q, 0, completion_tokens=90, reasoning=other), answer(q, 1, completion_tokens=30))
    ]
    found = curate(questions, answers, CurationRules(size=6))
    assert [a.sample for a in found.kept[:4]] == [1, 1, 1, 1]
    assert len({a.question.id for a in found.kept[:4]}) == 4
    assert [d.fate for d in found.decisions].count("surplus") == 2
    long = curate(questions, answers, CurationRules(size=4, prefer="long"))
    assert {a.sample for a in long.kept} == {0}


def test_templates_take_turns() -> None:
    many = [question(f"m{n}", f"How many apples are {n} and {n + 1}?") for n in range(30)]
    few = [question(f"f{n}", f"Spell the word number {n} of the dictionary backwards") for n in range(3)]
    found = curate([*many, *few], [answer(q) for q in (*many, *few)], CurationRules(size=6))
    assert sum(a.question.id.startswith("f") for a in found.kept) == 3


def test_answers_that_say_the_same_are_one() -> None:
    one = question("a")
    same = [answer(one, n, reasoning=STEPS + (" So." if n else "")) for n in range(3)]
    assert sorted(d.fate for d in curate([one], same, CurationRules()).decisions) == [
        "duplicate answer",
        "duplicate answer",
        "kept",
    ]


def test_the_same_input_gives_the_same_set() -> None:
    questions = [question(str(n), f"Is {n} a prime number?") for n in range(30)]
    answers = [answer(q, s, reasoning=f"{q.id} {s} {STEPS * s}") for q in questions for s in range(3)]
    rules = CurationRules(size=20, prefer="random", seed=3)
    first = [(a.question.id, a.sample) for a in curate(questions, answers, rules).kept]
    assert first == [(a.question.id, a.sample) for a in curate(questions, answers, rules).kept]


@pytest.mark.parametrize("settings", [{"size": 0}, {"per_question": 0}, {"easiest": 2}, {"answer_similarity": -1}])
def test_rules_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match=next(iter(settings))):
        CurationRules(**settings)


def test_quality_rules_are_checked() -> None:
    with pytest.raises(TrainingError, match="max_tokens"):
        QualityRules(max_tokens=0)
