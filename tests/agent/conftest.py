"""What the agent's tests share: a workspace, and what a run gives to its tools."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepground.agent.tools import ToolContext


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "work"
    made.mkdir()
    return made.resolve()


@pytest.fixture
def context(tmp_path: Path, folder: Path) -> ToolContext:
    artifacts = tmp_path / "run" / "files"
    artifacts.mkdir(parents=True)
    return ToolContext(artifacts=artifacts, workspace=folder)
