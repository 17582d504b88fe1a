"""Questions from files of every kind that is in use, and what is wrong with bad ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deepground.errors import TaskError, TrainingError
from deepground.train.answering import FieldNames, message_from_json, message_to_json, read_questions, task_questions


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_plain_questions(tmp_path: Path) -> None:
    rows = [
        {"question": "1+1?", "answer": "2", "cluster": "sums", "extra": [1]},
        {"id": 7, "prompt": "capital of France?", "ground_truth": "Paris", "suite": "geo"},
        {"instruction": "Add", "input": "3 and 4", "output": "ignored", "answer": 7},
    ]
    first, second, third = read_questions(write(tmp_path / "set.jsonl", rows), system_prompt="Be brief.")
    assert [m.role for m in first.messages] == ["system", "user"]
    assert (first.text, first.answer, first.cluster, first.suite, first.grader["type"]) == (
        "1+1?",
        "2",
        "sums",
        "set",
        "math",
    )
    assert first.meta == {"question": "1+1?", "extra": [1]}
    assert (second.id, second.suite, second.grader["type"]) == ("7", "geo", "exact")
    assert (third.text, third.answer) == ("Add\n\n3 and 4", "7")


def test_other_tools_files(tmp_path: Path) -> None:
    verl = {"prompt": [{"role": "user", "content": "2+2?"}], "reward_model": {"style": "rule", "ground_truth": "4"}}
    table = pa.Table.from_pylist([verl])
    pq.write_table(table, tmp_path / "verl.parquet")
    (question,) = read_questions(tmp_path / "verl.parquet")
    assert (question.text, question.answer) == ("2+2?", "4")
    (tmp_path / "sheet.csv").write_text('﻿Frage,Antwort\n"Wieviel, bitte?",12\n', encoding="utf-8")
    (question,) = read_questions(tmp_path / "sheet.csv", fields=FieldNames(question="Frage", answer="Antwort"))
    assert (question.text, question.answer) == ("Wieviel, bitte?", "12")
    (tmp_path / "list.json").write_text(json.dumps([{"messages": [{"from": "human", "value": "hi"}], "answer": "x"}]))
    assert read_questions(tmp_path / "list.json")[0].text == "hi"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "holds no questions"),
        ([[1]], "line 1 must hold an object"),
        ([{"answer": "2"}], "row 1 has no question"),
        ([{"question": 5}], "row 1: question must be a text"),
        ([{"question": "x", "grader": "exact"}], "row 1: grader: the exact grader compares"),
        ([{"question": "x", "answer": "1"}] * 2, "row 2 repeats row 1"),
        ([{"id": "a", "question": q, "answer": "1"} for q in "xy"], "row 2 has the id 'a' of row 1"),
        ([{"messages": [{"role": "boss", "content": "x"}]}], r"messages\[0\]\.role must be one of"),
        ([{"question": "x", "answer": "1", "tools": [{"nme": "f"}]}], r"tools\[0\] must be an object"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        read_questions(write(tmp_path / "set.jsonl", rows))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="does not exist"):
        read_questions(tmp_path / "no.jsonl")
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(TrainingError, match=r"must be a \.jsonl"):
        read_questions(tmp_path / "x.txt")
    (tmp_path / "x.jsonl").write_bytes(b"\xff\xfe{}")
    with pytest.raises(TrainingError, match="not UTF-8"):
        read_questions(tmp_path / "x.jsonl")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 rubbish")
    with pytest.raises(TrainingError, match="no Parquet file"):
        read_questions(tmp_path / "x.parquet")
    (tmp_path / "y.jsonl").write_text("{broken\n")
    with pytest.raises(TrainingError, match="line 1 is not JSON"):
        read_questions(tmp_path / "y.jsonl")


def test_messages_survive_the_round_trip() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    for value in (
        {"role": "user", "content": "hi"},
        {"role": "tool", "tool_call_id": "c1", "content": "5"},
        {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [call]},
    ):
        assert message_to_json(message_from_json(value, "m")) == value


def test_our_tasks_as_questions() -> None:
    train = task_questions("addition", 20, split="train")
    test = task_questions("addition", 20, split="test")
    assert len({q.id for q in train + test}) == 40
    assert task_questions("addition", 20, split="test") == test
    with pytest.raises(TrainingError, match="at least 1"):
        task_questions("addition", 0)


def test_one_level_of_a_task() -> None:
    questions = task_questions("addition@5", 20, split="train")
    assert {q.meta["level"] for q in questions} == {5}
    assert {q.suite for q in questions} == {"addition@5"}
    assert all(q.grader is not None and q.grader["level"] == 5 for q in questions)
    assert not {q.id for q in questions} & {q.id for q in task_questions("addition", 20, split="train")}
    with pytest.raises(TrainingError, match="level in 'addition@hard' must be a number"):
        task_questions("addition@hard", 5)
    with pytest.raises(TaskError, match="level"):
        task_questions("addition@99", 5)
