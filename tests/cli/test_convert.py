"""`deepground convert`, as a person calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deepground.cli import app
from deepground.errors import ModelFolderError, RequestError, TaskError
from deepground.model import load_raw_config
from tiny_models import tiny_model_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("convert") / "model", max_positions=1024)


def test_convert_and_measure(model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("What is seventeen plus twenty-five? The answer is forty-two.\n" * 5)
    report, output = tmp_path / "report.json", tmp_path / "out"
    options = ["--to", "mxfp4", "--others", "fp8-ue8m0", "--quantize-head", "fp8", "--tasks", "repeat", "--n", "2"]
    result = CliRunner().invoke(
        app, ["convert", str(model), str(output), *options, "--evaluate", str(text), "--report", str(report)]
    )
    assert result.exit_code == 0, result.output
    for expected in ("f32 -> mxfp4", "f32 -> fp8-ue8m0", "perplexity over", "repeat", "root mean square"):
        assert expected in result.output
    assert load_raw_config(output)["quantization_config"]["format"] == "mixed-precision"
    assert (output / "tokenizer.json").exists()
    written = json.loads(report.read_text())
    assert written["perplexity"]["tokens"] > 50
    assert 0 < abs(written["perplexity"]["after"] - written["perplexity"]["before"]) < 5
    assert {row["mode"] for row in written["accuracy"]} == {"thinking", "direct"}
    assert {row["problems"] for row in written["accuracy"]} == {2}
    assert max(tensor["error"]["relative_rms"] for tensor in written["tensors"]) > 0.05


def test_exact_conversions_say_so(model: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "fp8", tmp_path / "bf16"
    assert CliRunner().invoke(app, ["convert", str(model), str(first), "--to", "fp8-ue8m0"]).exit_code == 0
    result = CliRunner().invoke(app, ["convert", str(first), str(second), "--to", "bf16"])
    assert result.exit_code == 0
    assert "fp8-ue8m0 -> bf16" in result.output
    matrices = [line for line in result.output.splitlines() if "fp8-ue8m0 -> bf16" in line]
    assert all("none" in line for line in matrices)


def test_mistakes_are_named_before_anything_is_written(model: Path, tmp_path: Path) -> None:
    call = ["convert", str(model), str(tmp_path / "out"), "--to", "bf16"]
    cases = [
        (["--evaluate", str(tmp_path / "missing.txt")], RequestError, "missing.txt cannot be read as UTF-8 text"),
        (["--tasks", "nonsense"], TaskError, "nonsense"),
        (["--report", str(tmp_path / "no" / "report.json")], RequestError, "report.json cannot be a file there"),
    ]
    for options, error, message in cases:
        result = CliRunner().invoke(app, [*call, *options])
        assert isinstance(result.exception, error)
        assert message in str(result.exception)
        assert list(tmp_path.iterdir()) == []
    assert CliRunner().invoke(app, [*call[:-1], "q4_k"]).exit_code == 2
    result = CliRunner().invoke(app, ["convert", str(model), str(model), "--to", "bf16"])
    assert isinstance(result.exception, ModelFolderError)
