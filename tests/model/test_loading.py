"""Folders that are sound, in every form that checkpoints take; the damaged ones are in test_damaged_folders.

Legend: N rows, K columns; _hw block row and block column.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from config_samples import TINY
from deepground.errors import OutOfMemoryError
from deepground.kernels import dequantize_fp8_blocks
from deepground.model import Decoder, RowBatch, load_config, load_model, load_raw_config, save_model
from deepground.model.families import read_config
from deepground.model.weights import parameters

TOKENS = torch.arange(9) % 7


def _saved(folder: Path, family: str, **changes: Any) -> Decoder:
    """A float32 folder in one file, and the decoder that it holds."""
    decoder = Decoder(read_config({**TINY[family], **changes}))
    decoder.init_weights(5)
    save_model(decoder, folder, weight_format="float32")
    return decoder


def _rewrite(folder: Path, tensors: dict[str, Tensor], **config: Any) -> None:
    save_file(tensors, folder / "model.safetensors")
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))


def _assert_same(left: Decoder, right: Decoder) -> None:
    state = right.state_dict()
    assert state.keys() == left.state_dict().keys()
    for name, value in left.state_dict().items():
        assert value.dtype == state[name].dtype, name
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize("family", TINY)
def test_a_saved_model_loads_bit_for_bit_and_runs(tmp_path: Path, family: str) -> None:
    decoder = _saved(tmp_path / "model", family)
    loaded = load_model(tmp_path / "model", dtype="float32")
    _assert_same(decoder, loaded)
    assert loaded.config == decoder.config == load_config(tmp_path / "model")
    assert not loaded.training
    batch = RowBatch.single(TOKENS)
    with torch.inference_mode():
        assert torch.equal(loaded.logits(loaded(batch)), decoder.logits(decoder(batch)))


def test_shards_load_as_one_file_does(tmp_path: Path) -> None:
    decoder = _saved(tmp_path / "one", "deepseek_v3")
    save_model(decoder, tmp_path / "many", weight_format="float32", max_shard_bytes=30_000)
    assert len(list((tmp_path / "many").glob("model-*-of-*.safetensors"))) > 3
    _assert_same(load_model(tmp_path / "one", dtype="float32"), load_model(tmp_path / "many", dtype="float32"))


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32])
def test_stored_and_compute_formats_are_independent(tmp_path: Path, stored: torch.dtype) -> None:
    _saved(tmp_path, "deepseek_v3")
    tensors = {name: value.to(stored) for name, value in load_file(tmp_path / "model.safetensors").items()}
    _rewrite(tmp_path, tensors)
    wide = load_model(tmp_path, dtype="float32")
    assert torch.equal(wide.lm_head.weight, tensors["lm_head.weight"].float())
    narrow = load_model(tmp_path, dtype="bfloat16")
    assert torch.equal(narrow.lm_head.weight, tensors["lm_head.weight"].bfloat16())
    kept = [spec.name for spec in parameters(narrow.config) if spec.is_float32]
    assert kept
    assert {narrow.state_dict()[name].dtype for name in kept} == {torch.float32}
    assert {p.dtype for name, p in narrow.named_parameters() if name not in kept} == {torch.bfloat16}


@pytest.mark.parametrize("block", [(128, 128), (16, 16), (10, 7)], ids=str)
@pytest.mark.parametrize("scale_kind", ["float32", "power of two", "ue8m0"])
def test_fp8_block_scales(tmp_path: Path, block: tuple[int, int], scale_kind: str) -> None:
    _saved(tmp_path, "deepseek_v3")
    generator = torch.Generator().manual_seed(1)
    tensors = load_file(tmp_path / "model.safetensors")
    expected: dict[str, Tensor] = {}
    for name, value in list(tensors.items()):
        if not name.endswith(("_proj.weight", "_with_mqa.weight")):
            continue
        blocks = (-(-value.shape[0] // block[0]), -(-value.shape[1] // block[1]))
        scale_hw = torch.rand(blocks, generator=generator) + 0.5
        if scale_kind != "float32":
            scale_hw = torch.exp2(torch.floor(torch.log2(scale_hw)) - 3)
        codes_NK = (value / value.abs().max() * 400).to(torch.float8_e4m3fn)
        tensors[name] = codes_NK
        tensors[name + "_scale_inv"] = scale_hw.to(torch.float8_e8m0fnu) if scale_kind == "ue8m0" else scale_hw
        scale_NK = scale_hw.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
        expected[name] = codes_NK.float() * scale_NK[: value.shape[0], : value.shape[1]]
    quantization = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": list(block)}
    _rewrite(tmp_path, tensors, quantization_config=quantization)
    state = load_model(tmp_path, dtype="float32").state_dict()
    kv_a = "model.layers.1.self_attn.kv_a_proj_with_mqa.weight"
    assert torch.equal(state[kv_a], expected[kv_a])
    up = "model.layers.2.mlp.experts.3.up_proj.weight"
    assert torch.equal(state["model.layers.2.mlp.experts.gate_up_proj"][3, 16:], expected[up])
    narrow = load_model(tmp_path, dtype="bfloat16").state_dict()
    assert torch.equal(narrow[kv_a], expected[kv_a].bfloat16())


def test_stacked_experts_load_as_separate_ones_do(tmp_path: Path) -> None:
    decoder = _saved(tmp_path, "qwen3_moe")
    tensors = load_file(tmp_path / "model.safetensors")
    tensors = {name: value for name, value in tensors.items() if ".experts." not in name}
    tensors |= {name: value for name, value in decoder.state_dict().items() if ".experts." in name}
    _rewrite(tmp_path, tensors)
    _assert_same(decoder, load_model(tmp_path, dtype="float32"))


def test_stacked_fp8_experts_have_a_scale_grid_each(tmp_path: Path) -> None:
    decoder = _saved(tmp_path, "qwen3_moe")
    tensors = load_file(tmp_path / "model.safetensors")
    tensors = {name: value for name, value in tensors.items() if ".experts." not in name}
    tensors |= {name: value for name, value in decoder.state_dict().items() if ".experts." in name}
    name = "model.layers.0.mlp.experts.down_proj"
    codes = (tensors[name] * 100).to(torch.float8_e4m3fn)
    scale = torch.exp2(torch.arange(8.0)).reshape(8, 1, 1)
    tensors |= {name: codes, name + "_scale_inv": scale}
    _rewrite(tmp_path, tensors, quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]})
    state = load_model(tmp_path, dtype="float32").state_dict()
    for expert in range(8):
        expected = dequantize_fp8_blocks(codes[expert], scale[expert], dtype=torch.float32)
        assert torch.equal(state[name][expert], expected)


def test_mtp_layers_that_the_weights_lack_are_left_out(tmp_path: Path) -> None:
    _saved(tmp_path, "deepseek_v3")
    tensors = load_file(tmp_path / "model.safetensors")
    _rewrite(tmp_path, {name: value for name, value in tensors.items() if "layers.3." not in name})
    assert load_config(tmp_path).num_mtp_layers == 1
    loaded = load_model(tmp_path, dtype="float32")
    assert loaded.config.num_mtp_layers == 0
    assert loaded.config.moe_layers == {1, 2}


def test_derived_tensors_and_a_tied_head_are_accepted(tmp_path: Path) -> None:
    decoder = _saved(tmp_path, "qwen2")
    tensors = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" not in tensors
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(4)
    _rewrite(tmp_path, tensors)
    _assert_same(decoder, load_model(tmp_path, dtype="float32"))


def test_loaded_weights_do_not_depend_on_the_file(tmp_path: Path) -> None:
    decoder = _saved(tmp_path, "llama")
    loaded = load_model(tmp_path, dtype="float32")
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\0" * path.stat().st_size)
    path.unlink()
    _assert_same(decoder, loaded)
    loaded.lm_head.weight.data.add_(1.0)


def test_a_model_that_cannot_fit_is_refused_before_allocation(tmp_path: Path) -> None:
    # 2^16 x 2^24 values in a sparse file: 2 TiB that fill no disk.
    raw = {**TINY["llama"], "vocab_size": 2**24, "hidden_size": 2**16, "num_attention_heads": 64}
    raw |= {"num_key_value_heads": 64, "tie_word_embeddings": True, "num_hidden_layers": 1, "head_dim": 2}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    header, offset = {}, 0
    for spec in parameters(read_config(raw)):
        header[spec.name] = {
            "dtype": "BF16",
            "shape": list(spec.shape),
            "data_offsets": [offset, offset + 2 * spec.size],
        }
        offset += 2 * spec.size
    text = json.dumps(header).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)
    with pytest.raises(
        OutOfMemoryError, match=r"needs \d+\.\d GiB of memory in bfloat16, and \d+\.\d GiB are available"
    ):
        load_model(tmp_path, dtype="bfloat16")


def test_raw_config_is_what_stands_in_the_file(tmp_path: Path) -> None:
    _saved(tmp_path, "llama")
    assert load_raw_config(tmp_path) == json.loads((tmp_path / "config.json").read_text())
