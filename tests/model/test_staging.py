"""Folders that appear whole or not at all, and what dead writers leave behind."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from deepground.errors import ModelFolderError, WeightsError
from deepground.model.staging import MARKER, staged_folder, write_json


def test_the_folder_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er"
    with staged_folder(target) as staging:
        write_json(staging / "a.json", {"b": 1})
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["a.json"]
    assert [path.name for path in target.parent.iterdir()] == ["er"]


def _fail_within(target: Path, error: type[BaseException]) -> None:
    with staged_folder(target) as staging:
        (staging / "a").write_text("")
        raise error


def _fill_meanwhile(target: Path) -> None:
    with staged_folder(target):
        target.mkdir()
        (target / "precious").write_text("kept")


@pytest.mark.parametrize("error", [WeightsError, KeyboardInterrupt])
def test_nothing_is_left_of_a_failure(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        _fail_within(tmp_path / "out", error)
    assert list(tmp_path.iterdir()) == []


def test_what_a_dead_writer_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    dead, other, unmarked = (tmp_path / name for name in (".o[u]t.partial-1", ".else.partial-1", ".o[u]t.partial-2"))
    for folder in (dead, other):
        folder.mkdir()
        (folder / MARKER).write_text("")
    unmarked.mkdir()
    with staged_folder(tmp_path / "o[u]t"):
        pass
    assert not dead.exists()
    assert other.exists()
    assert unmarked.exists()


def test_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    alive = tmp_path / ".out.partial-1"
    alive.mkdir()
    (alive / MARKER).write_text("")
    marker = os.open(alive / MARKER, os.O_RDWR)
    try:
        fcntl.flock(marker, fcntl.LOCK_EX)
        with staged_folder(tmp_path / "out"):
            pass
        assert alive.exists()
    finally:
        os.close(marker)


def test_a_target_that_filled_up_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(ModelFolderError, match="out is there already"):
        _fill_meanwhile(target)
    assert (target / "precious").read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
