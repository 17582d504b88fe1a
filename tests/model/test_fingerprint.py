"""Another model, another name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from deepground.model import weights_fingerprint
from tiny_models import tiny_model_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_model_folder(tmp_path / "tiny")


def test_the_same_files_have_the_same_fingerprint(folder: Path, tmp_path: Path) -> None:
    first = weights_fingerprint(folder)
    assert len(first) == 64
    assert weights_fingerprint(str(folder)) == first
    shutil.copytree(folder, tmp_path / "copy")  # keeps the times
    assert weights_fingerprint(tmp_path / "copy") == first


def test_every_change_shows(folder: Path, tmp_path: Path) -> None:
    weights = folder / "model.safetensors"
    content, times = weights.read_bytes(), (weights.stat().st_atime_ns, weights.stat().st_mtime_ns)
    seen = {weights_fingerprint(folder)}

    def is_new() -> bool:
        before = len(seen)
        seen.add(weights_fingerprint(folder))
        return len(seen) == before + 1

    # Written anew with other values: the size is the same, the time is not.
    weights.write_bytes(content[:50_000] + bytes([content[50_000] ^ 1]) + content[50_001:])
    assert is_new()
    # Even with the old time, most changes are seen: in the header, at the end, and wherever a sample lies.
    for position in (12, len(content) - 1, len(content) // 2 - 100):
        weights.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        os.utime(weights, ns=times)
        assert is_new()
    weights.write_bytes(content)
    os.utime(weights, ns=(times[0], times[1] + 1))
    assert is_new()
    config = folder / "config.json"
    config.write_text(config.read_text() + " ")
    assert is_new()
    (folder / "other.safetensors").write_bytes(b"")
    assert is_new()
    tiny_model_folder(tmp_path / "seed", seed=1)
    shutil.copyfile(tmp_path / "seed" / "model.safetensors", weights)
    assert is_new()
