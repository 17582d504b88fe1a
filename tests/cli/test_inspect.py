"""`deepground inspect` as a user sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deepground.cli import app
from deepground.errors import ConfigError, UnsupportedModelError
from deepground.kernels import Machine
from deepground.model import inspect_model

PILOT = Path(__file__).parents[2] / "src" / "deepground" / "pilot"


def machine(gibibytes: float) -> Machine:
    memory = int(gibibytes * 2**30)
    return Machine(
        cpu="x", architecture="x86_64", instruction_sets=(), cores=2, memory_total=memory, memory_available=memory
    )


def test_the_bundled_model_fits_here() -> None:
    result = CliRunner().invoke(app, ["inspect"], terminal_width=200)
    assert result.exit_code == 0, result.output
    assert "deepseek_v3; MLA" in result.output
    assert "deepseek-v3.1" in result.output
    assert "F8_E4M3" in result.output


def test_a_small_machine_is_told_so() -> None:
    large, small = inspect_model(PILOT, machine(8)), inspect_model(PILOT, machine(0.05))
    assert all(fit.fits for fit in large.fits)
    assert not any(fit.fits for fit in small.fits)
    assert small.fits[0].context_tokens == 0
    native, bf16, float32 = large.fits
    assert [fit.name for fit in large.fits] == ["native", "bfloat16", "float32"]
    assert large.choice.startswith("native")
    # FP8 is half of bfloat16; the head and the absorbed halves of kv_b_proj stay bfloat16.
    assert 0.5 < native.active_bytes / bf16.active_bytes < 1
    assert not native.streams
    assert large.decode_tokens_per_second(bf16, 1e9) == 2 * large.decode_tokens_per_second(float32, 1e9)


def test_what_is_not_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json"):
        inspect_model(tmp_path, machine(8))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UnsupportedModelError, match="bert"):
        inspect_model(tmp_path, machine(8))
