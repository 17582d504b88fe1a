"""What is written: whole folders that transformers reads to the same logits.

Legend: T tokens, V vocabulary.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from config_samples import TINY
from deepground.errors import ModelFolderError, WeightsError
from deepground.model import Decoder, RowBatch, load_model, load_raw_config, save_model
from deepground.model.families import read_config
from deepground.model.saving import WeightFormat

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import transformers
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

TOKENS = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3])
FORMATS: tuple[WeightFormat, ...] = ("float32", "bfloat16", "fp8-ue8m0", "mxfp4")
# Sizes around a block: whole, several, halves of their own, and smaller than one.
WIDE = {"hidden_size": 128, "intermediate_size": 256, "moe_intermediate_size": 160, "q_lora_rank": 96}


def _decoder(family: str, **changes: Any) -> Decoder:
    decoder = Decoder(read_config({**TINY[family], **changes}))
    decoder.init_weights(11)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for value in decoder.state_dict().values():
            # Away from the neutral start: norms off one, biases off zero, logits of order one.
            value.add_(torch.randn(value.shape, generator=generator), alpha=0.1)
    return decoder.eval()


@torch.inference_mode()
def _logits(decoder: Decoder) -> Tensor:
    return decoder.logits(decoder(RowBatch.single(TOKENS)))


@torch.inference_mode()
def _reference_logits(folder: Path) -> Tensor:
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).float().eval()
    logits: Tensor = reference(TOKENS.unsqueeze(0), use_cache=False).logits[0]
    return logits


def _state(folder: Path) -> dict[str, Tensor]:
    return load_model(folder, dtype="float32").state_dict()


@pytest.mark.parametrize("family", TINY)
def test_transformers_reads_the_same_logits(tmp_path: Path, family: str) -> None:
    decoder = _decoder(family)
    save_model(decoder, tmp_path / "model", weight_format="float32")
    assert (_reference_logits(tmp_path / "model") - _logits(decoder)).abs().max() < 1e-4


@pytest.mark.parametrize("scaling", ["linear", "llama3", "yarn"])
@pytest.mark.parametrize("family", ["deepseek_v3", "qwen3", "glm4_moe"])
def test_transformers_reads_the_same_rope(tmp_path: Path, family: str, scaling: str) -> None:
    rope: dict[str, Any] = {"rope_type": scaling, "factor": 4.0}
    if scaling != "linear":
        rope["original_max_position_embeddings"] = 8
    if scaling == "llama3":
        rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    if scaling == "yarn":
        rope |= {"mscale": 1.0, "mscale_all_dim": 0.707} if family == "deepseek_v3" else {"truncate": False}
    decoder = _decoder(family, rope_scaling=rope)
    save_model(decoder, tmp_path / "model", weight_format="float32")
    assert (_reference_logits(tmp_path / "model") - _logits(decoder)).abs().max() < 1e-4


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("family", TINY)
def test_a_second_trip_changes_nothing(tmp_path: Path, family: str, weight_format: WeightFormat) -> None:
    save_model(_decoder(family), tmp_path / "first", weight_format=weight_format)
    once = load_model(tmp_path / "first", dtype="float32")
    save_model(once, tmp_path / "second", weight_format=weight_format, raw_config=load_raw_config(tmp_path / "first"))
    twice = _state(tmp_path / "second")
    assert all(torch.equal(value, twice[name]) for name, value in once.state_dict().items())
    assert load_raw_config(tmp_path / "first") == load_raw_config(tmp_path / "second")


def test_formats_of_stored_tensors(tmp_path: Path) -> None:
    decoder = _decoder("deepseek_v3", **{**WIDE, "moe_intermediate_size": 260})
    for weight_format in FORMATS:
        save_model(decoder, tmp_path / weight_format, weight_format=weight_format)
    dtypes = {
        weight_format: {
            name: value.dtype for name, value in load_file(tmp_path / weight_format / "model.safetensors").items()
        }
        for weight_format in FORMATS
    }
    bias = "model.layers.1.mlp.gate.e_score_correction_bias"
    assert set(dtypes["float32"].values()) == {torch.float32}
    assert {name for name, dtype in dtypes["bfloat16"].items() if dtype != torch.bfloat16} == {
        bias,
        bias.replace("layers.1", "layers.2"),
        bias.replace("layers.1", "layers.3"),
    }
    stored = dtypes["fp8-ue8m0"]
    assert stored["model.layers.1.self_attn.o_proj.weight"] == torch.float8_e4m3fn
    assert stored["model.layers.1.self_attn.o_proj.weight_scale_inv"] == torch.float32
    assert stored["model.layers.1.mlp.shared_experts.up_proj.weight"] == torch.bfloat16  # 260 = three uneven parts
    assert stored["model.embed_tokens.weight"] == torch.bfloat16
    assert stored["model.layers.1.mlp.gate.weight"] == torch.bfloat16
    packed = dtypes["mxfp4"]
    assert packed["model.layers.1.self_attn.q_a_proj.weight_packed"] == torch.uint8
    assert packed["model.layers.1.self_attn.q_a_proj.weight_scale"] == torch.uint8
    assert packed["model.layers.1.mlp.shared_experts.down_proj.weight"] == torch.bfloat16  # rows of 260
    assert stored["model.layers.3.eh_proj.weight"] == torch.bfloat16
    assert stored["model.norm.weight"] == torch.bfloat16
    assert stored[bias] == torch.float32


def test_fp8_folders_say_what_they_are(tmp_path: Path) -> None:
    decoder = _decoder("deepseek_v3", **{**WIDE, "moe_intermediate_size": 260})
    save_model(decoder, tmp_path / "model", weight_format="fp8-ue8m0")
    quantization = load_raw_config(tmp_path / "model")["quantization_config"]
    uneven = quantization.pop("modules_to_not_convert")
    assert quantization == {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "weight_block_size": [128, 128],
        "activation_scheme": "dynamic",
        "scale_fmt": "ue8m0",
    }
    assert "model.layers.1.mlp.experts" in uneven
    assert "model.layers.0.mlp.gate_proj" not in uneven
    for name, scale in load_file(tmp_path / "model" / "model.safetensors").items():
        if name.endswith("_scale_inv"):
            assert torch.equal(torch.frexp(scale)[0], torch.full_like(scale, 0.5)), name


def test_fp8_scales_mean_to_transformers_what_they_mean_here(tmp_path: Path) -> None:
    """Its own dequantisation, tensor by tensor; needs neither a GPU nor accelerate."""
    save_model(_decoder("deepseek_v3", **WIDE), tmp_path / "fp8", weight_format="fp8-ue8m0")
    stored = load_file(tmp_path / "fp8" / "model.safetensors")
    scales = {name for name in stored if name.endswith("_scale_inv")}
    dequantize = Fp8Dequantize(None)
    plain = {
        name: dequantize._dequantize_one(value, stored[f"{name}_scale_inv"], torch.float32)
        if f"{name}_scale_inv" in scales
        else value.float()
        for name, value in stored.items()
        if name not in scales
    }
    (tmp_path / "plain").mkdir()
    save_file(plain, tmp_path / "plain" / "model.safetensors")
    raw = load_raw_config(tmp_path / "fp8")
    del raw["quantization_config"]
    (tmp_path / "plain" / "config.json").write_text(json.dumps(raw))
    theirs = _state(tmp_path / "plain")
    ours = load_model(tmp_path / "fp8", dtype="float32")
    assert all(torch.equal(value, theirs[name]) for name, value in ours.state_dict().items())
    assert (_reference_logits(tmp_path / "plain") - _logits(ours)).abs().max() < 1e-4


def test_fp8_folders_load_in_transformers(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="transformers needs accelerate for FP8 folders")
    save_model(_decoder("deepseek_v3", **WIDE), tmp_path / "model", weight_format="fp8-ue8m0")
    ours = load_model(tmp_path / "model", dtype="float32")
    assert (_reference_logits(tmp_path / "model") - _logits(ours)).abs().max() < 1e-4


def test_shards_respect_their_size_and_the_index_is_complete(tmp_path: Path) -> None:
    decoder = _decoder("deepseek_v3")
    save_model(decoder, tmp_path / "model", weight_format="float32", max_shard_bytes=20_000)
    index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())
    stored: dict[str, str] = {}
    total = 0
    for path in sorted((tmp_path / "model").glob("*.safetensors")):
        tensors = load_file(path)
        size = sum(value.nbytes for value in tensors.values())
        assert size <= 20_000
        total += size
        stored.update(dict.fromkeys(tensors, path.name))
    assert index == {"metadata": {"total_size": total}, "weight_map": stored}
    assert (_reference_logits(tmp_path / "model") - _logits(decoder)).abs().max() < 1e-4


def test_nothing_is_left_of_a_save_that_fails(tmp_path: Path) -> None:
    decoder = _decoder("llama")
    with torch.no_grad():
        decoder.state_dict()["model.layers.2.mlp.up_proj.weight"][0, 0] = torch.nan
    with pytest.raises(WeightsError, match=r"model\.layers\.2\.mlp\.up_proj\.weight: the weight holds NaN"):
        save_model(decoder, tmp_path / "model", weight_format="fp8-ue8m0")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_overwrite_leaves_the_old_folder(tmp_path: Path) -> None:
    decoder = _decoder("llama")
    save_model(decoder, tmp_path / "model")
    before = _state(tmp_path / "model")
    with torch.no_grad():
        decoder.state_dict()["model.layers.2.mlp.up_proj.weight"].fill_(torch.inf)
    with pytest.raises(WeightsError):
        save_model(decoder, tmp_path / "model", weight_format="fp8-ue8m0", overwrite=True)
    after = _state(tmp_path / "model")
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_is_in_the_way_is_refused_or_replaced(tmp_path: Path) -> None:
    decoder = _decoder("llama")
    target = tmp_path / "deep" / "model"
    target.mkdir(parents=True)
    save_model(decoder, target)
    with pytest.raises(ModelFolderError, match="not empty; give another folder, or remove this one"):
        save_model(decoder, target)
    (target / "stray.safetensors").write_bytes(b"")
    save_model(decoder, target, overwrite=True)
    assert {path.name for path in target.iterdir()} == {"config.json", "model.safetensors"}
    assert [path.name for path in target.parent.iterdir()] == ["model"]
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelFolderError, match="file is there already"):
        save_model(decoder, tmp_path / "file")
    with pytest.raises(ModelFolderError, match="cannot be written"):
        save_model(decoder, tmp_path / "file" / "model")


def test_the_tokenizer_comes_along_and_code_does_not(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "modeling_evil.py", "a.bin"):
        (source / name).write_text("{}")
    save_model(_decoder("llama"), tmp_path / "model", tokenizer_from=source)
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    }
    assert oct((tmp_path / "model" / "model.safetensors").stat().st_mode & 0o777) == "0o644"
