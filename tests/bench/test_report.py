"""A whole measurement of a small model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deepground.bench import BenchConfig, BenchReport, Rate, run_bench
from deepground.errors import ModelFolderError
from tiny_models import tiny_model_folder

CONFIG = BenchConfig(streams=(1, 2), prefill_tokens=(64,), context_tokens=300, new_tokens=3, rounds=1)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[BenchReport, list[Rate]]:
    seen: list[Rate] = []
    folder = tiny_model_folder(tmp_path_factory.mktemp("models") / "tiny")
    return run_bench(folder, CONFIG, threads=1, on_rate=seen.append), seen


def test_every_speed_is_told_and_kept(measured: tuple[BenchReport, list[Rate]]) -> None:
    report, seen = measured
    assert list(report.rates) == seen
    assert [(rate.kind, rate.streams, rate.context) for rate in seen] == [
        ("decode", 1, 32),
        ("decode", 2, 32),
        ("decode", 1, 300),
        ("prefill", 1, 64),
    ]
    assert report.best_decode.tokens_per_s == max(rate.tokens_per_s for rate in seen[:3])
    assert report.rate("decode", 2) is seen[1]
    assert report.rate("decode", 3) is None


def test_a_known_prompt_comes_from_memory_and_after_a_restart_from_disk(
    measured: tuple[BenchReport, list[Rate]],
) -> None:
    """Units of 64 tokens, and the last token of a prompt is always computed: 4 units of 300 tokens."""
    cold, memory, disk = measured[0].first_tokens
    assert [(time.cache, time.prompt_tokens, time.hit_tokens) for time in (cold, memory, disk)] == [
        ("cold", 300, 0),
        ("memory", 300, 256),
        ("disk", 300, 256),
    ]


def test_the_report_is_plain_json(measured: tuple[BenchReport, list[Rate]]) -> None:
    report, _ = measured
    content = json.loads(json.dumps(report.as_json()))
    assert content["model"] == "tiny"
    assert content["limits"]["threads"] == 1
    assert [rate["fraction"] for rate in content["rates"]] == [rate.fraction for rate in report.rates]
    memory = content["memory"]
    assert 0 < memory["weights"] < memory["peak_resident"]
    assert content["disk_bytes"] > 0


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match="nothing"):
        run_bench(tmp_path / "nothing", CONFIG)
