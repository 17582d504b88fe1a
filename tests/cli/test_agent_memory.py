"""What runs taught, and trip databases, from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agent.test_memory import taught
from deepground.agent.travel.world import World


def command(state: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deepground", "agent", *words], capture_output=True, text=True, check=False,
        env={"XDG_STATE_HOME": str(state), "PATH": "/usr/bin:/bin", "HOME": str(state), "COLUMNS": "200"},
    )  # fmt: skip


@pytest.fixture
def state(tmp_path: Path) -> Path:
    memory, _ = taught(tmp_path)
    place = tmp_path / "deepground" / "agent" / "memory.json"
    place.parent.mkdir(parents=True)
    memory.path.rename(place)
    (tmp_path / "runs").rename(place.parent / "runs")
    return tmp_path


def test_lessons_are_shown_changed_and_forgotten(state: Path) -> None:
    lessons = json.loads(command(state, "memory", "list", "--json").stdout)
    rule, procedure = lessons
    assert rule["text"] in command(state, "memory", "list").stdout
    assert json.loads(command(state, "memory", "show", rule["id"]).stdout) == rule
    assert command(state, "memory", "edit", rule["id"], "Lift first.").returncode == 0
    assert json.loads(command(state, "memory", "show", rule["id"]).stdout)["text"] == "Lift first."
    assert command(state, "memory", "delete", procedure["id"]).returncode == 0
    missing = command(state, "memory", "show", procedure["id"])
    assert missing.returncode == 1
    assert "no lesson" in missing.stderr
    assert command(state, "memory", "clear", "--yes").returncode == 0
    assert "Nothing is remembered" in command(state, "memory", "list").stdout


def test_verified_runs_are_exported(state: Path, tmp_path: Path) -> None:
    done = command(state, "export", str(tmp_path / "out.jsonl"))
    assert done.stdout.startswith("1 conversations in ")
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1


def test_a_trip_database_is_made(tmp_path: Path) -> None:
    done = command(tmp_path, "trip-data", "build", str(tmp_path / "w.sqlite"), "--seed", "3")
    assert "50 cities" in done.stdout
    assert World(tmp_path / "w.sqlite").meta["seed"] == "3"
