"""The training mixture: shares, shapes and speed of its conversations."""

import time
from collections import Counter
from random import Random

import pytest

from deepground.errors import TaskError
from deepground.tasks import (
    TASK_WEIGHTS,
    TASKS,
    draw_problem,
    evaluation_set,
    majority_baseline,
    problem_conversation,
    training_conversation,
)
from deepground.tasks.small_talk import phrases, small_talk


def test_the_same_seed_gives_the_same_conversation() -> None:
    assert [training_conversation(i) for i in range(200)] == [training_conversation(i) for i in range(200)]
    assert training_conversation(1) != training_conversation(2)


def test_conversations_are_well_formed() -> None:
    for i in range(1500):
        conversation = training_conversation(i)
        roles = [m.role for m in conversation.messages if m.role != "system"]
        assert [m.role for m in conversation.messages].count("system") == (conversation.messages[0].role == "system")
        assert (roles[0], roles[-1]) == ("user", "assistant")
        if not conversation.tools:
            assert roles in (["user", "assistant"], ["user", "assistant"] * 2)
        for message in conversation.messages:
            assert message.text or message.tool_calls
            assert bool(message.reasoning) == (conversation.thinking and message.role == "assistant")


def test_shares() -> None:
    conversations = [training_conversation(i) for i in range(2500)]
    without_tools = [c for c in conversations if not c.tools]
    thinking = sum(c.thinking for c in without_tools) / len(without_tools)
    turns = Counter(sum(m.role == "user" for m in c.messages) for c in without_tools)
    assert 0.82 < thinking < 0.88
    assert 0.04 < turns[2] / len(without_tools) < 0.11
    assert 0.1 < 1 - len(without_tools) / 2500 < 0.4
    assert not any(c.thinking for c in conversations if c.tools)
    assert any(c.messages[0].role == "system" for c in conversations)


def test_every_task_has_a_weight_and_is_drawn() -> None:
    assert TASK_WEIGHTS.keys() == TASKS.keys()
    rng = Random(0)
    assert {draw_problem(rng).task for _ in range(1000)} == TASKS.keys()
    assert {draw_problem(rng, {"gcd": 1}).task for _ in range(50)} == {"gcd"}


def test_progress_brings_harder_levels() -> None:
    def mean_level(progress: float) -> float:
        rng = Random(0)
        return sum(draw_problem(rng, progress=progress).level for _ in range(2000)) / 2000

    assert mean_level(0) < 2 < mean_level(0.5) < mean_level(1)


def test_progress_out_of_range_is_refused() -> None:
    with pytest.raises(TaskError, match="progress"):
        training_conversation(0, progress=1.5)


def test_a_problem_is_shown_with_or_without_its_trace() -> None:
    problem = TASKS["addition"].generate(1, level=2)
    user, assistant = problem_conversation(problem).messages
    assert (user.text, assistant.text, assistant.reasoning) == (problem.question, problem.answer, problem.trace)
    assert problem_conversation(problem, thinking=False).messages[1].reasoning == ""


def test_small_talk_is_varied_and_complete() -> None:
    rng = Random(0)
    remarks = [small_talk(rng) for _ in range(3000)]
    assert len({question for question, _, _ in remarks}) > 1000
    for question, thought, answer in remarks:
        assert question.strip()
        assert thought.endswith(".")
        assert answer
        assert "{" not in question + answer
    assert any("你" in question for question, _, _ in remarks)


def test_every_slot_of_a_phrase_exists() -> None:
    texts = phrases()
    known = {*texts.slots, "noun", "verb", "number"}
    for intent in (*texts.english, *texts.chinese):
        for question in intent.questions:
            for part in question.split("{")[1:]:
                assert part.partition("}")[0] in known, question


def test_generation_keeps_up_with_training() -> None:
    start = time.process_time()
    for i in range(2000):
        training_conversation(i)
    assert 2000 / (time.process_time() - start) > 1500  # 10,000 on a free core; training needs some 30


def test_the_majority_baseline_is_the_share_of_the_commonest_answer() -> None:
    problems = evaluation_set("gcd", 100)
    answers = [p.answer for p in problems]
    assert majority_baseline(problems) == max(answers.count(a) for a in answers) / 100
    assert majority_baseline(evaluation_set("addition", 100)) < 0.1
    with pytest.raises(TaskError, match="at least one"):
        majority_baseline([])
