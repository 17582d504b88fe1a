"""The graders' settings: which fields each kind has, checked before anything is paid for.

{"type": "exact", "ignore_case": true}
{"type": "number", "tolerance": 0.01}
{"type": "math"}
{"type": "regex", "pattern": "^[A-D]$"}
{"type": "json_schema", "schema": {...}, "expected": {"total": 12}}
{"type": "code", "tests": "assert add(1, 2) == 3"}
{"type": "python", "function": "my_grader.py:grade"}
{"type": "tool_calls", "expected": [{"name": "weather", "arguments": {"city": "Taipei"}}]}
{"type": "task", "task": "addition", "seed": 7, "split": "train", "level": null}
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from deepground.errors import TaskError
from deepground.tasks.graders.answer import parse_number
from deepground.tasks.registry import ALL_TASKS

_Check = Callable[[Any], bool]


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _filled(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _tolerance(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


def _object(value: Any) -> bool:
    return isinstance(value, dict)


def _calls(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(call, dict) and _filled(call.get("name")) and isinstance(call.get("arguments", {}), dict)
        for call in value
    )


_FIELDS: dict[str, dict[str, tuple[_Check, str, bool]]] = {
    "exact": {"ignore_case": (_flag, "true or false", False), "whole_reply": (_flag, "true or false", False)},
    "number": {
        "tolerance": (_tolerance, "a number, 0 or more", False),
        "relative_tolerance": (_tolerance, "a number, 0 or more", False),
    },
    "math": {},
    "regex": {
        "pattern": (_filled, "a regular expression", False),
        "ignore_case": (_flag, "true or false", False),
        "whole_reply": (_flag, "true or false", False),
    },
    "json_schema": {
        "schema": (_object, "a JSON Schema, as an object", False),
        "expected": (lambda value: isinstance(value, dict | list), "an object or a list", False),
    },
    "code": {
        "tests": (_filled, "Python code that raises if the reply's code is wrong", True),
        "language": (lambda value: value == "python", '"python"', False),
    },
    "python": {"function": (_filled, '"module:function" or "path/to/file.py:function"', True)},
    "tool_calls": {"expected": (_calls, "a list of objects with name and arguments", True)},
    "gym": {
        "dataset": (_filled, "the name of a reasoning-gym data set", True),
        "seed": (lambda value: isinstance(value, int), "a whole number", True),
        "size": (lambda value: isinstance(value, int) and value > 0, "a whole number above 0", True),
        "index": (lambda value: isinstance(value, int) and value >= 0, "a whole number, 0 or more", True),
        "config": (_object, "settings of the data set", False),
    },
    "task": {
        "task": (lambda value: value in ALL_TASKS, "the name of a task", True),
        "seed": (lambda value: isinstance(value, int), "a whole number", True),
        "split": (lambda value: value in ("train", "test"), '"train" or "test"', False),
        "level": (lambda value: value is None or isinstance(value, int), "a level of the task or null", False),
    },
}
"""Kind -> field -> (check, what it must be, whether it is required)."""

GRADER_KINDS = tuple(_FIELDS)
"""The values of `type`."""

_NEEDS_ANSWER = ("exact", "number", "math")


def check_spec(spec: Any, *, answer: str = "", where: str = "grader") -> dict[str, Any]:
    """A grader's settings, checked.

    Args:
        spec: the object, or the kind alone as a text.
        answer: the problem's expected answer.
        where: what error messages call the place, "file.jsonl line 3: grader" for example.

    Raises:
        TaskError: names the field and what it must be.
    """
    if isinstance(spec, str):
        spec = {"type": spec}
    if not isinstance(spec, Mapping):
        raise TaskError(f"{where} must be an object with a type, or one of {', '.join(GRADER_KINDS)}")
    kind = spec.get("type")
    if kind not in _FIELDS:
        raise TaskError(f"{where}.type is {kind!r}; the graders are {', '.join(GRADER_KINDS)}")
    fields = _FIELDS[kind]
    for name, value in spec.items():
        if name == "type":
            continue
        if name not in fields:
            known = ", ".join(fields) or "none"
            raise TaskError(f"{where}.{name} is no field of the {kind} grader; its fields are: {known}")
        check, wanted, _ = fields[name]
        if not check(value):
            raise TaskError(f"{where}.{name} must be {wanted}, and is {value!r:.200}")
    missing = [name for name, (_, _, required) in fields.items() if required and name not in spec]
    if missing:
        raise TaskError(f"{where}.{missing[0]} is missing; it must be {fields[missing[0]][1]}")
    _check_content(kind, spec, answer, where)
    return dict(spec)


def default_spec(answer: str) -> dict[str, Any]:
    """The grader of a problem that names none: math where the answer is a number or a formula, else exact."""
    formula = any(mark in answer for mark in ("\\", "$", "^")) or parse_number(answer) is not None
    return {"type": "math" if formula and len(answer) <= 200 else "exact", **({} if formula else {"ignore_case": True})}


def _check_content(kind: str, spec: Mapping[str, Any], answer: str, where: str) -> None:
    if kind in _NEEDS_ANSWER and not answer.strip():
        raise TaskError(f"{where}: the {kind} grader compares with the problem's answer, and there is none")
    if kind == "number" and parse_number(answer) is None:
        raise TaskError(f"{where}: the number grader needs a number as the answer, and it is {answer!r:.100}")
    if kind == "regex":
        pattern = spec.get("pattern", answer)
        if not pattern:
            raise TaskError(f"{where}.pattern is missing, and the problem has no answer to take its place")
        try:
            re.compile(pattern)
        except re.error as error:
            raise TaskError(f"{where}.pattern is no regular expression: {error}") from error
    if kind == "json_schema" and "schema" not in spec and "expected" not in spec:
        raise TaskError(f"{where} needs a schema, an expected value, or both")
    if kind == "python" and ":" not in spec["function"]:
        raise TaskError(f'{where}.function must be "module:function" or "path/to/file.py:function"')
