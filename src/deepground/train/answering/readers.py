"""Questions from files, in our own form and in those that other tools and people write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepground.errors import TaskError, TrainingError
from deepground.messages import Message
from deepground.tasks.graders import check_spec, default_spec
from deepground.train.answering.chat_json import message_from_json, tool_from_json
from deepground.train.answering.question import Question, content_id
from deepground.train.answering.rows import ANSWER_FIELDS, QUESTION_FIELDS, json_object, read_rows, table_column

_LISTED_REPEATS = 20


@dataclass(frozen=True, kw_only=True)
class FieldNames:
    """Where a file has what; None: the first of the usual names that is there."""

    question: str | None = None
    """A text, or a list of messages."""
    answer: str | None = None
    cluster: str | None = None


def read_questions(
    path: Path, *, fields: FieldNames | None = None, grader: Any = None, system_prompt: str | None = None
) -> list[Question]:
    """The questions of a file.

    A row may bring its own `id`, `grader`, `cluster`, `suite` and `tools`. verl's columns (`prompt`,
    `reward_model.ground_truth`) and reasoning-gym's (`question`, `answer`, `metadata`) are understood.

    Args:
        path: .jsonl, .json (a list), .csv, .tsv, .xlsx or .parquet.
        fields: names of the columns, where they are unusual.
        grader: of rows that have none; None: by the answer, see `default_spec`.
        system_prompt: put before conversations that have no system message.

    Raises:
        TrainingError: names the file, the row and the field, and what is wrong.
    """
    fields = fields or FieldNames()
    questions: list[Question] = []
    seen: dict[str, int] = {}
    repeats: list[str] = []
    for number, row in read_rows(path):
        question = _question(row, _names_in(row, fields), grader, system_prompt, path.stem, f"{path} row {number}")
        if question.id in seen:
            same = content_id(question.messages, question.answer) == question.id
            what = "repeats" if same else f"has the id {question.id!r} of"
            repeats.append(f"row {number} {what} row {seen[question.id]}")
            continue
        seen[question.id] = number
        questions.append(question)
    if repeats:
        more = f" and {len(repeats) - _LISTED_REPEATS} more" if len(repeats) > _LISTED_REPEATS else ""
        listed = ", ".join(repeats[:_LISTED_REPEATS])
        raise TrainingError(f"{path} {listed}{more}; remove one of each, or give each its own id")
    if not questions:
        raise TrainingError(f"{path} holds no questions")
    return questions


def _names_in(row: Mapping[str, Any], fields: FieldNames) -> FieldNames:
    """The fields as this row calls them: tables have some names in small letters."""
    named = {key: name if name is None or name in row else table_column(name) for key, name in vars(fields).items()}
    return FieldNames(**named)


def _question(
    row: Mapping[str, Any], fields: FieldNames, grader: Any, system_prompt: str | None, stem: str, where: str
) -> Question:
    messages = _messages(row, fields, where)
    if system_prompt and messages[0].role != "system":
        messages = (Message.system(system_prompt), *messages)
    answer = _answer(row, fields, where)
    spec = row.get("grader") or grader or default_spec(answer)
    if isinstance(spec, str) and spec.startswith("{"):  # CSV files and Parquet columns hold it as text.
        spec = json_object(spec, f"{where}: grader")
    if isinstance(spec, Mapping) and "type" in spec:
        spec = {name: value for name, value in spec.items() if value is not None or name == "level"}
    try:
        checked = check_spec(spec, answer=answer, where=f"{where}: grader")
    except TaskError as error:
        raise TrainingError(str(error)) from error
    cluster = row.get(fields.cluster or "cluster")
    used = {"id", "grader", "cluster", "suite", "tools", "messages", "answer"}
    return Question(
        id=str(row["id"]) if row.get("id") not in (None, "") else content_id(messages, answer),
        messages=messages,
        answer=answer,
        grader=checked,
        suite=str(row.get("suite") or stem),
        cluster="" if cluster is None else str(cluster),
        tools=tuple(tool_from_json(tool, f"{where}: tools[{i}]") for i, tool in enumerate(row.get("tools") or ())),
        meta={name: value for name, value in row.items() if name not in used and _is_plain(value)},
    )


def _messages(row: Mapping[str, Any], fields: FieldNames, where: str) -> tuple[Message, ...]:
    name = fields.question or next((n for n in QUESTION_FIELDS if row.get(n)), None)
    value = row.get(name) if name else None
    if name is None or value in (None, "", []):
        looked = fields.question or ", ".join(QUESTION_FIELDS)
        there = ", ".join(map(str, row))
        raise TrainingError(f"{where} has no question: looked for {looked}, and the row has {there}; name its column")
    if isinstance(value, str):
        if name == "instruction" and isinstance(row.get("input"), str) and row["input"]:
            value = f"{value}\n\n{row['input']}"
        return (Message.user(value),)
    if not isinstance(value, list):
        raise TrainingError(f"{where}: {name} must be a text or a list of messages")
    messages = [message_from_json(entry, f"{where}: {name}[{i}]") for i, entry in enumerate(value)]
    while messages and messages[-1].role == "assistant":  # A training conversation: its last reply is the answer.
        messages.pop()
    if not messages:
        raise TrainingError(f"{where}: {name} holds no question")
    return tuple(messages)


def _answer(row: Mapping[str, Any], fields: FieldNames, where: str) -> str:
    reward = row.get("reward_model")
    if fields.answer is None and isinstance(reward, Mapping) and "ground_truth" in reward:
        return str(reward["ground_truth"])
    if fields.answer is not None and fields.answer not in row:
        raise TrainingError(f"{where} has no column {fields.answer!r}")
    name = fields.answer or next((n for n in ANSWER_FIELDS if row.get(n) not in (None, "")), None)
    value = row.get(name) if name else None
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
