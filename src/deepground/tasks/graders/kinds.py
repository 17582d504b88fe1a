"""The graders themselves, one function per kind. They run in a worker process, which may be killed."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import re
import sys
import unicodedata
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from deepground.errors import TaskError
from deepground.messages import ToolCallPart
from deepground.tasks.graders.answer import final_answer, parse_number
from deepground.tasks.mixture import find_task
from deepground.tasks.problem import reply_text
from deepground.tasks.verdict import Grade, GradeJob

MAX_REPLY_CHARS = 200_000
"""What is longer is wrong without being looked at: parsers of formulas take time that grows faster than the text."""


def grade(job: GradeJob) -> Grade:
    """The verdict on one reply; exceptions of the grader are the caller's to catch."""
    if len(job.reply) > MAX_REPLY_CHARS:
        return Grade("wrong", f"the reply has {len(job.reply)} characters; at most {MAX_REPLY_CHARS} are graded")
    if not job.reply.strip() and not job.tool_calls:
        return Grade("wrong", "the reply is empty")
    return _KINDS[job.spec["type"]](job)


def _verdict(right: bool, detail: str) -> Grade:
    return Grade("right" if right else "wrong", detail[:500])


def _exact(job: GradeJob) -> Grade:
    given = job.reply if job.spec.get("whole_reply") else final_answer(job.reply)
    ignore_case = bool(job.spec.get("ignore_case"))
    return _verdict(_normal(given, ignore_case) == _normal(job.answer, ignore_case), f"answered {given!r:.300}")


def _normal(text: str, ignore_case: bool) -> str:
    text = " ".join(unicodedata.normalize("NFKC", text).split())
    return text.casefold() if ignore_case else text


def _number(job: GradeJob) -> Grade:
    given, wanted = parse_number(final_answer(job.reply)), parse_number(job.answer)
    if given is None or wanted is None:
        return Grade("wrong", f"no single number in {final_answer(job.reply)!r:.200}")
    room = max(job.spec.get("tolerance", 0), job.spec.get("relative_tolerance", 0) * abs(float(wanted)))
    right = given == wanted or (room > 0 and abs(float(given - wanted)) <= room * (1 + 1e-12))
    return _verdict(right, f"answered {float(given):g}, expected {float(wanted):g}")


def _math(job: GradeJob) -> Grade:
    given = final_answer(job.reply)
    if _normal(given, False) == _normal(job.answer, False):
        return Grade("right", f"answered {given!r:.300}")
    numbers = parse_number(given), parse_number(job.answer)
    if None not in numbers and _is_plain_number(job.answer):
        return _verdict(numbers[0] == numbers[1], f"answered {given!r:.300}")
    parse, verify = _math_verify()
    # No time-out of its own: it works by an alarm signal, and this process is killed from outside anyway.
    wanted = parse(f"${job.answer}$", parsing_timeout=None)
    found = parse(f"${given}$", parsing_timeout=None) or parse(job.reply, parsing_timeout=None)
    return _verdict(bool(verify(wanted, found, timeout_seconds=None)), f"answered {given!r:.300}")


def _is_plain_number(text: str) -> bool:
    return re.fullmatch(r"\s*[-+−]?[\d,]*\.?\d+\s*%?\s*", text) is not None


@cache
def _math_verify() -> tuple[Callable[..., Any], Callable[..., Any]]:
    try:
        from math_verify import parse, verify
    except ImportError as error:
        raise TaskError("the math grader needs math-verify; run: pip install 'deepground[train]'") from error
    return parse, verify


def _regex(job: GradeJob) -> Grade:
    flags = re.IGNORECASE if job.spec.get("ignore_case") else 0
    given = job.reply.strip() if job.spec.get("whole_reply") else final_answer(job.reply)
    return _verdict(
        re.search(job.spec.get("pattern", job.answer), given, flags) is not None, f"answered {given!r:.300}"
    )


def _json_schema(job: GradeJob) -> Grade:
    text = _json_text(job.reply)
    try:
        value = json.loads(text)
    except ValueError as error:
        return Grade("wrong", f"not JSON: {error}")
    if "schema" in job.spec:
        try:
            import jsonschema
        except ImportError as error:
            raise TaskError("the json_schema grader needs jsonschema; run: pip install 'deepground[train]'") from error
        problems = sorted(jsonschema.Draft202012Validator(job.spec["schema"]).iter_errors(value), key=str)
        if problems:
            return Grade("wrong", f"{problems[0].json_path}: {problems[0].message}"[:500])
    if "expected" in job.spec:
        difference = json_difference(job.spec["expected"], value)
        if difference:
            return Grade("wrong", difference[:500])
    return Grade("right", text[:300])


def _json_text(reply: str) -> str:
    """The reply's JSON: what stands in its last code fence, else all of it."""
    fences = re.findall(r"```(?:json)?\s*\n(.*?)```", reply, re.DOTALL | re.IGNORECASE)
    return str(fences[-1] if fences else final_answer(reply) if "\\boxed" in reply else reply).strip()


def json_difference(wanted: Any, given: Any, path: str = "$") -> str:
    """Where two JSON values differ, or an empty text; 5 and 5.0 are equal, true and 1 are not."""
    if isinstance(wanted, dict) and isinstance(given, dict):
        for key in wanted.keys() | given.keys():
            if key not in given or key not in wanted:
                return f"{path}.{key} is {'missing' if key not in given else 'not asked for'}"
            if difference := json_difference(wanted[key], given[key], f"{path}.{key}"):
                return difference
        return ""
    if isinstance(wanted, list) and isinstance(given, list):
        if len(wanted) != len(given):
            return f"{path} has {len(given)} entries, expected {len(wanted)}"
        pairs = enumerate(zip(wanted, given, strict=True))
        return next((d for i, (a, b) in pairs if (d := json_difference(a, b, f"{path}[{i}]"))), "")
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (wanted, given))
    same = math.isclose(wanted, given, rel_tol=1e-9) if numbers else type(wanted) is type(given) and wanted == given
    return "" if same else f"{path} is {given!r:.100}, expected {wanted!r:.100}"


def _tool_calls(job: GradeJob) -> Grade:
    wanted = job.spec["expected"]
    given = []
    for call in job.tool_calls:
        try:
            arguments = json.loads(call.get("arguments") or "{}")
        except ValueError:
            return Grade("wrong", f"the arguments of {call.get('name')} are not JSON")
        given.append({"name": call.get("name"), "arguments": arguments})

    def order(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Parallel calls have no order."""
        return sorted(calls, key=lambda call: json.dumps(call, sort_keys=True))

    plain = [{"name": call["name"], "arguments": call.get("arguments", {})} for call in wanted]
    difference = json_difference(order(plain), order(given))
    return _verdict(not difference, difference or f"{len(given)} calls")


def _code(job: GradeJob) -> Grade:
    from deepground.tasks.code_tests import run_tests

    return run_tests(job.reply, job.spec["tests"])


def _gym(job: GradeJob) -> Grade:
    """By reasoning-gym, with its partial credit refused, and its truth tests that any text passes made exact."""
    spec = job.spec
    data = gym_dataset(spec["dataset"], spec["size"], spec["seed"], json.dumps(spec.get("config", {})))
    entry, given = data[spec["index"]], final_answer(job.reply)
    if spec["dataset"] in _ANY_TEXT_PASSES:
        return _verdict(_normal(given, True) == _normal(str(entry["answer"]), True), f"answered {given!r:.300}")
    return _verdict(float(data.score_answer(given, entry)) == 1.0, f"answered {given!r:.300}")


_ANY_TEXT_PASSES = frozenset({"game_of_life_halting"})


@cache
def gym_dataset(name: str, size: int, seed: int, config: str) -> Any:
    """A reasoning-gym data set.

    Args:
        name: its name.
        size: number of entries.
        seed: of its entries.
        config: its other settings, as JSON.

    Raises:
        TaskError: reasoning-gym is not installed, or knows no such data set or setting.
    """
    try:
        from reasoning_gym import create_dataset
    except ImportError as error:
        raise TaskError(f"{name} needs reasoning-gym; run: pip install 'deepground[train]'") from error
    try:
        return create_dataset(name, size=size, seed=seed, **json.loads(config))
    except (ValueError, TypeError, AssertionError) as error:
        raise TaskError(f"reasoning-gym makes no data set {name!r} with these settings: {error}") from error


def _task(job: GradeJob) -> Grade:
    spec = job.spec
    task = find_task(spec["task"])
    problem = task.generate(spec["seed"], spec.get("split", "train"), spec.get("level"))
    if problem.conversation[-1].text != job.question and job.question:
        raise TaskError(
            f"problem {spec['seed']} of {spec['task']} reads otherwise now than when this set was made; make it again"
        )
    calls = [
        ToolCallPart(f"call_{number}", str(call.get("name")), str(call.get("arguments") or ""))
        for number, call in enumerate(job.tool_calls)
    ]
    right = task.grade(problem, reply_text(job.reply, calls)) == 1.0
    return _verdict(right, f"expected {problem.answer!r:.200}")


def _python(job: GradeJob) -> Grade:
    outcome = _function(job.spec["function"])(
        {"question": job.question, "answer": job.answer, **job.meta},
        {"text": job.reply, "tool_calls": list(job.tool_calls)},
    )
    if isinstance(outcome, bool):
        return _verdict(outcome, "")
    if isinstance(outcome, tuple) and len(outcome) == 2 and isinstance(outcome[0], bool):
        return _verdict(outcome[0], str(outcome[1]))
    raise TaskError(
        f"{job.spec['function']} must return True or False, or one of them and a text; got {outcome!r:.100}"
    )


@cache
def _function(path: str) -> Callable[[Mapping[str, Any], Mapping[str, Any]], object]:
    place, _, name = path.rpartition(":")
    if place.endswith(".py"):
        source = importlib.util.spec_from_file_location(f"grader_{Path(place).stem}", place)
        if source is None or source.loader is None or not Path(place).is_file():
            raise TaskError(f"the grader's file {place} does not exist")
        module = importlib.util.module_from_spec(source)
        sys.modules[source.name] = module
        source.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    function = getattr(module, name, None)
    if not callable(function):
        raise TaskError(f"{place} has no function {name!r}")
    return function  # type: ignore[no-any-return]


_KINDS: dict[str, Callable[[GradeJob], Grade]] = {
    "exact": _exact,
    "number": _number,
    "math": _math,
    "regex": _regex,
    "json_schema": _json_schema,
    "code": _code,
    "python": _python,
    "tool_calls": _tool_calls,
    "gym": _gym,
    "task": _task,
}
