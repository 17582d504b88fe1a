"""The tests of a workspace: which command runs them, running it in the sandbox, and what counts as passed.

Passed means: the command ended with exit code 0, at least one test ran, and the tests are those that were there when
the run began. An exit code alone says little: a program that ends early ends the test runner with it, and well.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from deepground.agent.tools.commands import limits_for, output_of
from deepground.agent.tools.plain_tests import test_files
from deepground.agent.tools.protocol import Check, CheckResult, Tool, ToolContext, ToolFailure, ToolResult
from deepground.agent.tools.snapshot import Change, Snapshot
from deepground.agent.tools.suite_report import Counts, Failure, counts_of, failures_in
from deepground.agent.tools.workspace import Workspace
from deepground.sandbox import Limits, Sandbox

_SECONDS = 300.0
_COUNTING_RUNNER = re.compile(r"\b(pytest|py\.test|unittest|cargo|jest|vitest|mocha|go test|node --test)\b")
"""Runners whose summary is understood: if one says nothing, it did not come to its end."""
_TEST_FILE = re.compile(r"(^|/)(tests?/.*|test_[^/]*|[^/]*_test\.\w+|[^/]*\.(test|spec)\.\w+)$")
_SET_UP = re.compile(
    r"(^|/)(conftest\.py|\.?pytest\.ini|tox\.ini|(sitecustomize|usercustomize|_?pytest|pluggy|unittest)(\.py|/.*))$"
)
"""Files that decide how tests are run, or that are run in the test runner's stead."""
_SETTINGS = re.compile(r"^\[(?:tool\.pytest|tool:pytest)\b.*?(?=^\[|\Z)", re.MULTILINE | re.DOTALL)
"""The part of pyproject.toml or setup.cfg that does so."""
_MOST_FEW = 4
NO_TESTS = "no tests found"


@dataclass(frozen=True, kw_only=True)
class SuiteRun:
    """What came of running the tests."""

    passed: bool
    summary: str
    """In a few words, for people: "3 passed", "1 failed, 2 passed", "no tests found"."""
    output: str
    counts: Counts
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Suite:
    """How the tests of a workspace are run."""

    workspace: Workspace
    sandbox: Sandbox
    command: str | None
    """As the user gave it, for bash; None: pytest, or our own runner where that is not installed."""
    snapshot: Snapshot
    keep_tests: bool = True
    """Whether tests that were changed, removed or set up otherwise in this run are held against it."""

    @property
    def name(self) -> str:
        """The command, for people."""
        if self.command is not None:
            return self.command
        return "pytest" if _has_pytest(self.sandbox, self.workspace.root) else "the tests"

    def exists(self) -> bool:
        """Whether there is something to run."""
        return self.command is not None or next(test_files(self.workspace.root), None) is not None

    def run(self, context: ToolContext) -> SuiteRun:
        """Run the tests.

        Raises:
            SandboxError: they could not be run.
        """
        if not self.exists():
            return SuiteRun(passed=False, summary=NO_TESTS, output=NO_TESTS, counts=Counts(0, 0))
        limits = limits_for(context, _SECONDS)
        result = self.sandbox.run(
            self._arguments(), workspace=self.workspace.root, limits=limits, environment=self._environment(),
            cancelled=context.cancelled,
        )  # fmt: skip
        output = output_of(result, limits)
        counts = counts_of(f"{result.stdout}\n{result.stderr}")
        uncounted = counts.passed is None and self.command is not None and not _COUNTING_RUNNER.search(self.command)
        passed = result.ok and not counts.failed and (bool(counts.passed) or uncounted)
        failures = () if passed else failures_in(result.stdout, read=self._read, root=str(self.workspace.root))
        return SuiteRun(
            passed=passed, summary=_summary(counts, result.exit, uncounted=uncounted), output=output, counts=counts,
            failures=tuple(failures),
        )  # fmt: skip

    def changed_tests(self, context: ToolContext) -> list[str]:
        """Tests that are no longer what they were, and new files that steer how tests are run."""
        if not self.keep_tests:
            return []
        return [path for path, kind in self.snapshot.changes(context).items() if self._is_test(path, kind, context)]

    def _is_test(self, path: str, kind: Change, context: ToolContext) -> bool:
        if path.rpartition("/")[2] in {"pyproject.toml", "setup.cfg"}:
            before, now = self.snapshot.text(path, context) or "", self._read(path) or ""
            return _SETTINGS.findall(before) != _SETTINGS.findall(now)
        return bool(_SET_UP.search(path) or (kind != "new" and _TEST_FILE.search(path)))

    def _arguments(self) -> list[str]:
        if self.command is not None:
            return ["/bin/bash", "-c", self.command]
        if _has_pytest(self.sandbox, self.workspace.root):
            # Without -q: with a second one from the project's settings, pytest would not say how many tests passed.
            return ["python3", "-m", "pytest", "-p", "no:cacheprovider", "--color=no"]
        return ["python3", "-I", "-c", files("deepground.agent.tools").joinpath("plain_tests.py").read_text("utf-8")]

    def _environment(self) -> dict[str, str]:
        root = self.workspace.root  # our own runner takes no paths from outside, and finds these itself
        return {} if self.command is not None else {"PYTHONPATH": f"{root}:{root}/src"}

    def _read(self, path: str) -> str | None:
        try:
            return self.workspace.read(path).decode(errors="replace")
        except ToolFailure:
            return None


def run_tests_tool(suite: Suite, *, brief: bool) -> Tool:
    """Runs the tests.

    Args:
        suite: which.
        brief: the first failure alone, in one line; else all that the runner printed.
    """

    def run(arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        del arguments
        done = suite.run(context)
        data = {"passed": done.passed, "summary": done.summary}
        return ToolResult(content=_brief(done) if brief else f"{done.output}\n[{done.summary}]", data=data)

    return Tool(
        name="run_tests",
        description="Run the tests",
        parameters={"type": "object", "properties": {}, "required": []},
        effect="repeatable",
        run=run,  # type: ignore[arg-type]
    )


def tests_check(suite: Suite, *, brief: bool) -> Check:
    """Passes when the tests do."""

    def run(answer: str, context: ToolContext) -> CheckResult:
        del answer
        if changed := suite.changed_tests(context):
            names = ", ".join(changed[:5])
            report = f"The tests themselves were changed ({names}). Put them back as they were, and change the code."
            return CheckResult(passed=False, report=report, data={"changed_tests": changed})
        done = suite.run(context)
        data = {"passed": done.passed, "summary": done.summary}
        if done.passed and not suite.snapshot.changes(context):
            report = (
                f"Nothing was changed. The tests pass ({done.summary}), but they do not show that anything was done."
            )
            return CheckResult(passed=False, report=report, data=data, retry=False)
        if done.passed:
            return CheckResult(passed=True, report=f"{done.summary} ({suite.name})", data=data)
        return CheckResult(passed=False, report=_brief(done) if brief else _report(done), data=data)

    return Check(name=suite.name, run=run)


@functools.cache
def _has_pytest(sandbox: Sandbox, root: Path) -> bool:
    limits = Limits(seconds=20)
    return sandbox.run(["python3", "-c", "import pytest"], workspace=root, limits=limits, writable=False).ok


def _summary(counts: Counts, code: int | None, *, uncounted: bool) -> str:
    if counts.passed is None:
        return f"exit code {code}" if uncounted else "the output does not say how many tests ran"
    if not counts.passed and not counts.failed:
        return NO_TESTS
    failed = [f"{counts.failed} failed"] if counts.failed else []
    return ", ".join([*failed, f"{counts.passed} passed"])


def _brief(done: SuiteRun) -> str:
    """As small models learned to read it."""
    if done.passed:
        few = done.counts.passed is not None and done.counts.passed <= _MOST_FEW
        return f"{done.counts.passed} passed" if few else "all tests passed"
    if done.failures:
        first = done.failures[0]
        return f"{first.path}: {first.text}"
    return "\n".join(done.output.splitlines()[-3:])[-300:]


def _report(done: SuiteRun) -> str:
    tail = done.output[-1500:]
    return f"The tests do not pass: {done.summary}.\n{tail}"
