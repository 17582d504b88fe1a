"""What the sandbox's tests share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deepground.sandbox import Limits, Result, Sandbox

RunPython = Callable[..., Result]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder.resolve()


@pytest.fixture
def run_python(sandbox: Sandbox, workspace: Path) -> RunPython:
    """Run a Python program in the sandbox, in `workspace`."""

    def run(code: str, *arguments: object, limits: Limits | None = None, **more: object) -> Result:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        return sandbox.run(command, workspace=workspace, limits=limits or Limits(seconds=20), **more)  # type: ignore[arg-type]

    return run


@pytest.fixture
def shell(sandbox: Sandbox, workspace: Path) -> RunPython:
    """Run a shell command in the sandbox, in `workspace`."""

    def run(line: str, limits: Limits | None = None) -> Result:
        return sandbox.run(["/bin/bash", "-c", line], workspace=workspace, limits=limits or Limits(seconds=20))

    return run
