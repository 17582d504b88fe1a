"""Random-weight folders: they load, their sizes are as announced, and their activations stay sane."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from config_samples import TINY
from deepground.errors import ModelFolderError
from deepground.model import RowBatch, WeightFormat, load_model, write_random_model
from deepground.model.families import read_config

SIZES: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 256, "moe_intermediate_size": 64}
FORMATS: tuple[WeightFormat, ...] = ("float32", "bfloat16", "fp8-ue8m0", "mxfp4")


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("family", ["deepseek_v3", "qwen2"])
def test_folders_load_and_compute(tmp_path: Path, family: str, weight_format: WeightFormat) -> None:
    config = read_config({**TINY[family], **SIZES})
    write_random_model(config, tmp_path / "model", weight_format=weight_format)
    decoder = load_model(tmp_path / "model", dtype="float32")
    assert decoder.config == config
    with torch.inference_mode():
        logits_TV = decoder.logits(decoder(RowBatch.single(torch.arange(16))))
    assert 0.1 < float(logits_TV.std()) < 10
    state = decoder.state_dict()
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        weight_NK = state[f"model.layers.0.{name}.weight"]
        # Scales are powers of two, so the deviation is within a factor of the square root of two.
        assert 0.65 < float(weight_NK.std()) * weight_NK.shape[1] ** 0.5 < 1.55
    assert bool((state["model.norm.weight"] == 1).all())


def test_the_seed_decides(tmp_path: Path) -> None:
    config = read_config({**TINY["deepseek_v3"], **SIZES})
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_random_model(config, tmp_path / name, weight_format="fp8-ue8m0", seed=seed)
    first, same, other = (load_file(tmp_path / name / "model.safetensors") for name in "abc")
    assert all(torch.equal(value.view(torch.uint8), same[name].view(torch.uint8)) for name, value in first.items())
    expert = "model.layers.1.mlp.experts.0.up_proj.weight"
    sibling = expert.replace("experts.0", "experts.1")
    for left, right in ((first[expert], other[expert]), (first[expert], first[sibling])):
        assert not torch.equal(left.float(), right.float())


def test_a_folder_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a").write_text("")
    with pytest.raises(ModelFolderError, match="is there already"):
        write_random_model(read_config(TINY["llama"]), tmp_path / "model")
