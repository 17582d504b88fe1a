"""The bench command: its tables, its file, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deepground.cli import app
from deepground.errors import BenchError
from tiny_models import tiny_model_folder

QUICK = ["--streams", "1,2", "--prefill", "64", "--context", "200", "--new-tokens", "3", "--rounds", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("models") / "tiny")


def test_prints_tables_and_writes_the_file(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "results" / "bench.json"
    done = CliRunner().invoke(app, ["bench", str(folder), *QUICK, "--output", str(output)], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    for words in ("decode, 2 streams", "prefill", "prefix on disk after restart", "GB/s", "memory:"):
        assert words in done.output
    assert "dollars" not in done.output
    content = json.loads(output.read_text())
    assert len(content["rates"]) == 4
    assert "cost" not in content


def test_cost_stands_beside_prices(folder: Path, tmp_path: Path) -> None:
    prices, output = tmp_path / "prices.toml", tmp_path / "bench.json"
    prices.write_text(
        '[[price]]\nmodel = "Somebody\'s model"\ninput = 1\noutput = 2.5\ndate = "2026-01-01"\nsource = "s"\n'
    )
    options = ["--watts", "100", "--electricity-price", "0.5", "--hardware-price", "8766", "--lifetime-years", "1"]
    done = CliRunner().invoke(
        app,
        ["bench", str(folder), *QUICK, *options, "--prices", str(prices), "-o", str(output)],
        env={"COLUMNS": "200"},
    )
    assert done.exit_code == 0, done.output
    assert "Somebody's model" in done.output
    cost = json.loads(output.read_text())["cost"]
    assert cost["per_hour"] == pytest.approx(1.05)
    rates = {rate["streams"]: rate["tokens_per_s"] for rate in json.loads(output.read_text())["rates"][:2]}
    assert cost["output"]["1 stream"] == pytest.approx(1.05 / (rates[1] * 3600) * 1e6)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--streams", "1,x"], "--streams"),
        (["--prefill", "0"], "--prefill"),
        (["--prices", "x.toml"], "--prices"),
        (["--new-tokens", "1"], "--new-tokens"),
    ],
)
def test_wrong_options_are_named(options: list[str], complaint: str) -> None:
    done = CliRunner().invoke(app, ["bench", *options], env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert complaint in done.output


def test_a_wrong_price_table_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["bench", "--watts", "5", "--prices", str(tmp_path / "none.toml")])
    assert isinstance(done.exception, BenchError)
