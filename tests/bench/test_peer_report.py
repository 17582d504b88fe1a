"""The comparison's page: medians, shares, ratios, and what was left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from peer_report import CONTENDERS, Table, reckon, shape_config, write_page
from peers import brief, obstacle
from plot import draw, rates

FIGURES = {"load_s": 2.0, "read_s": 1.0, "peak_bytes": 3e9}


def run(contender: str, rate: float, foreign: float = 0.0) -> dict[str, Any]:
    decode = {"rate": rate, "foreign": foreign}
    return {"shape": "m1", "contender": contender, "decode": decode} | FIGURES


FOUND: dict[str, Any] = {
    "date": "2026-01-01",
    "threads": 2,
    "machine": {"cpu": "An abacus", "instruction_sets": ["AVX2"]},
    # One for each run; the median run of llama.cpp's was in a slow hour.
    "limits": [
        {"read_bytes_per_s": speed, "flops_per_s": 300e9, "instruction_set": "avx2"}
        for speed in (30e9, 30e9, 30e9, 30e9, 20e9, 60e9, 30e9)
    ],
    "runs": [
        *(run("deepground fp8-ue8m0", rate) for rate in (15.0, 21.0, 18.0)),
        *(run("llama.cpp q8_0", rate, foreign=0.2) for rate in (9.0, 10.0, 20.0)),
        {"shape": "m1", "contender": "vllm bf16", "failed": "Illegal instruction"},
    ],
    "skipped": {"m1 vllm w8a8": "no interpreter"},
}


def test_medians_count() -> None:
    table = Table(FOUND)
    assert table.rate("m1", "deepground fp8-ue8m0", "decode") == 18.0
    assert table.best_peer("m1", "decode") == ("llama.cpp q8_0", 10.0)
    assert table.rate("m1", "vllm bf16", "decode") is None


def test_share_of_the_memory_wall() -> None:
    """1.54 billion values in products, of 8.5 bits, and the cache of 64 tokens at 28 KiB each.

    A run counts beside the limit that was measured just before it: 9 of 30, 10 of 20, 20 of 60.
    """
    table = Table(FOUND)
    q8 = next(c for c in CONTENDERS["m1"] if c.name == "llama.cpp q8_0")
    share = table.share("m1", q8, "decode")
    values = 28 * (2 * 1536 * 1536 + 2 * 256 * 1536 + 3 * 1536 * 8960) + 151936 * 1536
    assert share == pytest.approx(20.0 * (values * 8.5 / 8 + 64 * 28672) / 60e9, rel=1e-3)


def test_m2_has_the_sizes_that_it_is_said_to_have() -> None:
    config = shape_config("m2")
    bf16 = next(c for c in CONTENDERS["m2"] if c.name == "vllm bf16")
    traffic = reckon(config, bf16)
    embedding = config.vocab_size * config.hidden_size
    assert (traffic.weights.total / 2 + embedding) / 1e9 == pytest.approx(4.6, abs=0.1)
    assert traffic.decode(1, 0).read_bytes / 2 / 1e9 == pytest.approx(0.87, abs=0.01)


def test_the_page_says_everything(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    write_page(FOUND, path)
    page = path.read_text()
    assert "| m1 decode | 18.0 deepground fp8-ue8m0 | 10.0 llama.cpp q8_0 | 1.80 | 1.10 |" in page
    assert "10.0* (" in page
    assert "18.0 (" in page
    assert "- m1 vllm w8a8: no interpreter" in page
    assert "- m1 vllm bf16: Illegal instruction" in page
    assert "| m2" not in page


def test_the_picture_shows_the_fastest_first(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert rates(Table(FOUND), "m1", "decode") == [("deepground fp8-ue8m0", 18.0), ("llama.cpp q8_0", 10.0)]
    figure = draw(Table(FOUND), "m1")
    figure.savefig(tmp_path / "plot.svg")
    assert "An abacus" in figure.get_suptitle()
    (axis,) = figure.axes
    assert [bar.get_width() for bar in axis.patches] == [10.0, 18.0]
    with pytest.raises(SystemExit, match="m2"):
        draw(Table(FOUND), "m2")


def test_absent_peers_are_named(tmp_path: Path) -> None:
    vllm = next(c for c in CONTENDERS["m1"] if c.engine == "vllm")
    assert "--python vllm" in str(obstacle(vllm, tmp_path, {}))
    assert "does not exist" in str(obstacle(vllm, tmp_path / "none", {"vllm": "python"}))
    assert obstacle(vllm, tmp_path, {"vllm": "python"}) is None
    assert "Illegal" in brief({"failed": "Illegal instruction"})
