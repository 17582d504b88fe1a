"""`deepground train` as a user runs it, on a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from deepground.cli import app
from deepground.errors import TrainingError
from deepground.model import load_model
from deepground.train import list_checkpoints, read_state
from tiny_models import tiny_model_folder

SMALL = ("--total-steps", "2", "--rows", "2", "--row-length", "300")


def train(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["train", *map(str, arguments)], terminal_width=200)


def test_the_mtp_phase_gives_a_model_its_layer(tmp_path: Path) -> None:
    model, run, out = tiny_model_folder(tmp_path / "model"), tmp_path / "run", tmp_path / "out"
    result = train("pretrain", model, run, *SMALL, "--phase", "mtp", "--drafts", "3")
    assert result.exit_code == 0, result.output
    state = read_state(list_checkpoints(run)[-1])
    assert (state["step"], state["config"]["mtp_drafts"]) == (2, 3)
    result = train("export", model, run, out)
    assert result.exit_code == 0, result.output
    assert load_model(out).config.num_mtp_layers == 1
    assert (out / "model-00001-of-00002.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def test_the_main_phase_trains_fresh_weights(tmp_path: Path) -> None:
    model, run, out = tiny_model_folder(tmp_path / "model"), tmp_path / "run", tmp_path / "out"
    assert train("pretrain", model, run, *SMALL).exit_code == 0
    assert read_state(list_checkpoints(run)[-1])["config"]["mtp_drafts"] == 0
    assert train("export", model, run, out, "--weight-format", "float32").exit_code == 0
    assert load_model(out).config.num_mtp_layers == 0


def test_phases_are_not_mixed(tmp_path: Path) -> None:
    model, run = tiny_model_folder(tmp_path / "model"), tmp_path / "run"
    result = train("pretrain", model, run, *SMALL, "--drafts", "2")
    assert result.exit_code == 2
    assert "only the mtp phase drafts" in result.output
    assert train("pretrain", model, run, *SMALL, "--phase", "mtp").exit_code == 0
    result = train("export", model, run, tmp_path / "out", "--weight-format", "float32")
    assert isinstance(result.exception, TrainingError)


@pytest.mark.parametrize("drafts", ["0", "9"])
def test_the_number_of_drafts_has_bounds(tmp_path: Path, drafts: str) -> None:
    result = train("pretrain", tmp_path, tmp_path / "run", "--phase", "mtp", "--drafts", drafts)
    assert result.exit_code == 2
    assert "--drafts" in result.output
