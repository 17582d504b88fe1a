"""Questions from files: JSONL, JSON, CSV and Parquet, in our own form and in those that other tools write."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepground.errors import TaskError, TrainingError
from deepground.messages import Message
from deepground.tasks.graders import check_spec, default_spec
from deepground.train.answering.chat_json import message_from_json, tool_from_json
from deepground.train.answering.question import Question, content_id

_QUESTION_FIELDS = ("messages", "prompt", "question", "problem", "instruction", "query", "input")
_ANSWER_FIELDS = ("answer", "ground_truth", "expected", "expected_answer", "final_answer", "solution", "target")


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
        path: .jsonl, .json (a list), .csv or .parquet.
        fields: names of the columns, where they are unusual.
        grader: of rows that have none; None: by the answer, see `default_spec`.
        system_prompt: put before conversations that have no system message.

    Raises:
        TrainingError: names the file, the row and the field, and what is wrong.
    """
    fields = fields or FieldNames()
    questions: list[Question] = []
    seen: dict[str, int] = {}
    for number, row in enumerate(read_rows(path), start=1):
        where = f"{path} row {number}"
        question = _question(row, fields, grader, system_prompt, path.stem, where)
        if question.id in seen:
            same = content_id(question.messages, question.answer) == question.id
            what = "repeats" if same else f"has the id {question.id!r} of"
            raise TrainingError(f"{where} {what} row {seen[question.id]}; remove one, or give each its own id")
        seen[question.id] = number
        questions.append(question)
    if not questions:
        raise TrainingError(f"{path} holds no questions")
    return questions


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a .jsonl, .json, .csv or .parquet file.

    Raises:
        TrainingError: it cannot be read, is of another kind, or a row is damaged; names the row.
    """
    suffix = path.suffix.lower()
    if not path.is_file():
        raise TrainingError(f"{path} does not exist; name a .jsonl, .json, .csv or .parquet file")
    try:
        if suffix == ".parquet":
            yield from _parquet_rows(path)
            return
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TrainingError(f"{path} is not UTF-8 text: {error}") from error
    except OSError as error:
        raise TrainingError(f"{path} cannot be read: {error}") from error
    if suffix == ".csv":
        yield from csv.DictReader(io.StringIO(text))
    elif suffix == ".json":
        yield from _json_rows(path, text)
    elif suffix in (".jsonl", ".ndjson"):
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield _object(line, f"{path} line {number}")
    else:
        raise TrainingError(f"{path} must be a .jsonl, .json, .csv or .parquet file")


def _json_rows(path: Path, text: str) -> Iterator[dict[str, Any]]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TrainingError(f"{path} is not JSON: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise TrainingError(f"{path} must hold a list of objects")
    yield from rows


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TrainingError(f"{where} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise TrainingError(f"{where} must hold an object")
    return row


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow.lib import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise TrainingError("Parquet files need pyarrow; run: pip install 'deepground[train]'") from error
    try:
        with ParquetFile(path) as file:  # type: ignore[no-untyped-call]
            for batch in file.iter_batches(batch_size=1000):
                yield from batch.to_pylist()
    except ArrowException as error:
        raise TrainingError(f"{path} is no Parquet file that can be read: {error}") from error


def _question(
    row: Mapping[str, Any], fields: FieldNames, grader: Any, system_prompt: str | None, stem: str, where: str
) -> Question:
    messages = _messages(row, fields, where)
    if system_prompt and messages[0].role != "system":
        messages = (Message.system(system_prompt), *messages)
    answer = _answer(row, fields, where)
    spec = row.get("grader") or grader or default_spec(answer)
    if isinstance(spec, str) and spec.startswith("{"):  # CSV files and Parquet columns hold it as text.
        spec = _object(spec, f"{where}: grader")
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
    name = fields.question or next((n for n in _QUESTION_FIELDS if row.get(n)), None)
    value = row.get(name) if name else None
    if name is None or value in (None, "", []):
        looked = fields.question or ", ".join(_QUESTION_FIELDS)
        raise TrainingError(f"{where} has no question: looked for {looked}; name its column")
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
    name = fields.answer or next((n for n in _ANSWER_FIELDS if row.get(n) not in (None, "")), None)
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
