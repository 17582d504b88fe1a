"""The toolsets for work on the files of a workspace: the full one, and the one that small models were taught."""

from __future__ import annotations

from pathlib import Path

from deepground.agent.tools.ask import ask_tool
from deepground.agent.tools.commands import python_tool, shell_tool
from deepground.agent.tools.files import edit_file_tool, view_file_tool, write_file_tool
from deepground.agent.tools.protocol import Toolset
from deepground.agent.tools.search import search_tool
from deepground.agent.tools.snapshot import Snapshot
from deepground.agent.tools.suite import Suite, run_tests_tool, tests_check
from deepground.agent.tools.todo import todo_tool
from deepground.agent.tools.workspace import Workspace
from deepground.sandbox import find_sandbox


def code_toolset(
    folder: Path, *, test_command: str | None = None, small: bool = False, keep_tests: bool = True,
    keep_out: tuple[Path, ...] = (),
) -> Toolset:  # fmt: skip
    """Tools for a folder, checked by its tests if it has any.

    Args:
        folder: the workspace.
        test_command: runs the tests; None: pytest or our own runner, if there are tests now.
        small: the four tools that the bundled pilot knows, named and answered as it learned them.
        keep_tests: hold it against a run if the tests themselves were changed.
        keep_out: folders that the workspace must not overlap.

    Raises:
        SandboxUnavailableError: commands cannot be isolated here; names the cure.
        SandboxError: the workspace is missing, or holds more than a task's files.
    """
    sandbox = find_sandbox()
    workspace = Workspace(folder, keep_out=keep_out)
    snapshot = Snapshot(workspace, sandbox)
    suite = Suite(
        workspace=workspace, sandbox=sandbox, command=test_command, snapshot=snapshot, keep_tests=keep_tests
    )  # fmt: skip
    check = tests_check(suite, brief=small) if suite.exists() else None
    files = (view_file_tool(workspace, ranges=not small), write_file_tool(workspace), edit_file_tool(workspace))
    if small:
        tools = (*files, run_tests_tool(suite, brief=True))
        return Toolset(
            name="code", tools=tools, check=check, begin=snapshot.take, diff=snapshot.diff, restore=snapshot.restore
        )  # fmt: skip
    return Toolset(
        name="code",
        tools=(
            *files,
            search_tool(sandbox, workspace.root),
            shell_tool(sandbox, workspace.root),
            python_tool(sandbox, workspace.root),
            run_tests_tool(suite, brief=False),
            todo_tool(),
            ask_tool(),
        ),
        instructions=_instructions(suite, workspace.root),
        check=check,
        begin=snapshot.take,
        diff=snapshot.diff,
        restore=snapshot.restore,
    )


def _instructions(suite: Suite, root: Path) -> str:
    tests = (
        f"It is done when the tests pass ({suite.name}); the tests themselves must stay as they are."
        if suite.exists()
        else "There are no tests yet; if you write code, write a test and run it."
    )
    return f"The workspace is {root}. Paths are relative to it. {tests}"
