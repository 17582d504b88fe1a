"""Reading what a test runner printed: how many tests ran, and failures in the few words that small models know. Pure.

Known are pytest, unittest, our own runner, and the summaries of cargo, go, jest, mocha, node and TAP.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass

_PASSED = re.compile(r"\b(\d+) (?:passed|passing)\b|^# pass (\d+)$", re.MULTILINE)
_FAILED = re.compile(r"\b(\d+) (?:failed|failing|errors?)\b|^# fail (\d+)$", re.MULTILINE)
_UNITTEST = re.compile(r"^Ran (\d+) tests? in .*\n\n(OK|FAILED|NO TESTS RAN)(?: \(([^)]*)\))?", re.MULTILINE)
_UNITTEST_PART = re.compile(r"(\w[\w ]*)=(\d+)")
_LINE = re.compile(r"^(ok \d+|ok\s+\S+\s+[\d.]+s|--- PASS: )", re.MULTILINE)
_NONE = re.compile(r"\bno tests (ran|found|to run|collected)\b|^collected 0 items$", re.MULTILINE | re.IGNORECASE)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_OURS = re.compile(r"^FAILED \S+\n(\S+\.py): (.+)$", re.MULTILINE)
_BLOCK = re.compile(r"^_{3,} (.+?) _{3,}$", re.MULTILINE)
_PLACE = re.compile(r"^(\S+\.py):(\d+):(?: (\w+))?", re.MULTILINE)
_STATEMENT = re.compile(r"^>\s+(assert .+)$", re.MULTILINE)
_COMPARED = re.compile(r"^E\s+(?:AssertionError: )?assert (.+)$", re.MULTILINE)
_WHERE = re.compile(r"^E\s+\+\s+where (.+) = (.+\))$", re.MULTILINE)
_FUNCTION = re.compile(r"^<(?:bound method|function) (?:\w+\.)*(\w+) (?:at|of) .*?>(?=\()")
_SAID = re.compile(r"^E\s+(.+)$", re.MULTILINE)
_SYNTAX = re.compile(r'^E\s+File "([^"]+)", line (\d+)$', re.MULTILINE)


@dataclass(frozen=True)
class Counts:
    """How many tests ran; None: the output does not say."""

    passed: int | None
    failed: int | None


@dataclass(frozen=True)
class Failure:
    """One test that failed."""

    path: str
    """The file that is probably at fault: that of the function called, or the test's own."""
    text: str
    """As `assert add(2, 3) == 5, got -1`."""


def counts_of(output: str) -> Counts:
    """The counts that a runner's summary gives."""
    output = _COLOUR.sub("", output)
    if found := _UNITTEST.search(output):
        parts = {name: int(n) for name, n in _UNITTEST_PART.findall(found[3] or "")}
        bad = parts.get("failures", 0) + parts.get("errors", 0) + parts.get("unexpected successes", 0)
        return Counts(int(found[1]) - bad - parts.get("skipped", 0), bad)
    passed = [int(a or b) for a, b in _PASSED.findall(output)]
    failed = [int(a or b) for a, b in _FAILED.findall(output)]
    lines = len(_LINE.findall(output))
    if passed or failed or lines:
        return Counts(max([*passed, lines]), max(failed, default=0))
    return Counts(0, 0) if _NONE.search(output) else Counts(None, None)


def failures_in(output: str, *, read: Callable[[str], str | None], root: str) -> list[Failure]:
    """The failures that our own runner or pytest tells about, in order.

    Args:
        output: what it printed.
        read: gives the text of a file of the workspace, or None.
        root: the workspace's path, which is left out of names.
    """
    output = _COLOUR.sub("", output).replace(f"{root}/", "")
    if ours := _OURS.findall(output):
        return [Failure(path, text) for path, text in ours]
    # What stands between the headings; the first piece comes before any, and headings stand between the others.
    blocks = _BLOCK.split(output)[2::2]
    return [failure for block in blocks if (failure := _failure(block, read)) is not None]


def _failure(block: str, read: Callable[[str], str | None]) -> Failure | None:
    places = _PLACE.findall(block)
    syntax = _SYNTAX.search(block)
    if not places:
        return None
    test_file, last = places[0][0], places[-1]
    statement = _STATEMENT.search(block)
    if syntax and statement is None:
        wanted = _first_assertion(read(test_file) or "")
        return Failure(syntax[1], f"{wanted}, got an error" if wanted else "an error")
    if statement is None:
        said = _SAID.findall(block)
        return Failure(last[0], said[-1] if said else "an error")
    if last[0] != test_file or last[2] not in {"", "AssertionError"}:
        place = last[0] if last[0] != test_file else _file_of_call(statement[1], test_file, read)
        return Failure(place, f"{statement[1]}, got an error")
    compared, where = _COMPARED.search(block), _WHERE.search(block)
    text = _comparison(statement[1], compared[1] if compared else "", where)
    return Failure(_file_of_call(statement[1], test_file, read), text)


def _comparison(statement: str, compared: str, where: re.Match[str] | None) -> str:
    """`assert CALL == EXPECTED, got GOT`, with the values that pytest shows."""
    got, _, expected = _sides(compared)
    called, _, wanted = _sides(statement.removeprefix("assert "))
    if where is not None and (not got or where[1] == got):
        called = _FUNCTION.sub(r"\1", where[2])
    if not got:
        return f"{statement}, got {where[1]}" if where is not None else statement
    return f"assert {called} == {expected or wanted}, got {got}"


def _sides(text: str) -> tuple[str, str, str]:
    """Both sides of an equality; empty if it is none."""
    try:
        node = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError):
        left, sign, right = text.partition(" == ")
        return (left, sign, right) if sign else ("", "", "")
    if not isinstance(node, ast.Compare) or len(node.ops) != 1 or not isinstance(node.ops[0], ast.Eq):
        return "", "", ""
    sides = ast.get_source_segment(text, node.left), ast.get_source_segment(text, node.comparators[0])
    return sides[0] or "", "==", sides[1] or ""


def _first_assertion(source: str) -> str:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return ""
    return next((ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Assert)), "")


def _file_of_call(statement: str, test_file: str, read: Callable[[str], str | None]) -> str:
    """The file that the function which a statement calls comes from, by the test's imports; else the test's own."""
    try:
        calls = [node for node in ast.walk(ast.parse(statement)) if isinstance(node, ast.Call)]
        tree = ast.parse(read(test_file) or "")
    except (SyntaxError, ValueError):
        return test_file
    imported: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            imported |= {alias.asname or alias.name: node.module for alias in node.names}
        elif isinstance(node, ast.Import):
            imported |= {alias.asname or alias.name: alias.name for alias in node.names}
    for call in calls:
        name = ast.unparse(call.func)
        module = imported.get(name) or imported.get(name.rpartition(".")[0])
        if module is None:
            continue
        stem = module.replace(".", "/")
        for path in (f"{stem}.py", f"src/{stem}.py", f"{stem}/__init__.py", f"src/{stem}/__init__.py"):
            if read(path) is not None:
                return path
    return test_file
