"""Conversions between number formats: what is written, what it costs, and what a crash leaves.

Legend: T tokens, V vocabulary.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from config_samples import TINY
from deepground.errors import ConfigError, ModelFolderError, WeightsError
from deepground.kernels import dequantize_fp8_blocks, dequantize_mxfp4
from deepground.model import (
    ConversionOptions,
    ConversionReport,
    Decoder,
    RowBatch,
    convert_model,
    load_model,
    load_raw_config,
    save_model,
)
from deepground.model.convert import TargetFormat
from deepground.model.families import read_config
from deepground.model.staging import MARKER

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import transformers
from transformers.utils.quantization_config import CompressedTensorsConfig

TARGETS: tuple[TargetFormat, ...] = ("bf16", "fp8-ue8m0", "mxfp4")
TOKENS = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3])
# Sides around the blocks: whole, several, smaller than one; kv_a_proj (24 rows) and the experts (160) have edges.
WIDE = {"hidden_size": 128, "intermediate_size": 256, "moe_intermediate_size": 160, "q_lora_rank": 96}
WHOLE = {**WIDE, "moe_intermediate_size": 64}
# Not one side is a multiple of 32.
ODD = {"hidden_size": 70, "intermediate_size": 150, "moe_intermediate_size": 33, "q_lora_rank": 131, "kv_lora_rank": 45}
EXPERT = "model.layers.1.mlp.experts.0.up_proj.weight"
KV_A = "model.layers.0.self_attn.kv_a_proj_with_mqa.weight"


def _decoder(family: str = "deepseek_v3", **changes: Any) -> Decoder:
    decoder = Decoder(read_config({**TINY[family], **changes}))
    decoder.init_weights(11)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for value in decoder.state_dict().values():
            value.add_(torch.randn(value.shape, generator=generator), alpha=0.1)
    return decoder.eval()


def _source(folder: Path, family: str = "deepseek_v3", weight_format: Any = "bfloat16", **changes: Any) -> Path:
    save_model(_decoder(family, **changes), folder / "source", weight_format=weight_format)
    return folder / "source"


def _convert(source: Path, target: TargetFormat, **options: Any) -> tuple[Path, ConversionReport]:
    output = source.parent / "-".join((source.name, target, *(f"{key}" for key in options)))
    return output, convert_model(source, output, ConversionOptions(target=target, **options))


def _stored(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in folder.glob("*.safetensors"):
        tensors |= load_file(path)
    return tensors


def _same(first: Path, second: Path) -> bool:
    left, right = _stored(first), _stored(second)
    return left.keys() == right.keys() and all(
        value.dtype == right[name].dtype
        and torch.equal(value.reshape(-1).view(torch.uint8), right[name].reshape(-1).view(torch.uint8))
        for name, value in left.items()
    )


def _state(folder: Path) -> dict[str, Tensor]:
    return load_model(folder, dtype="float32").state_dict()


@torch.inference_mode()
def _logits(folder: Path) -> Tensor:
    decoder = load_model(folder, dtype="float32")
    return decoder.logits(decoder(RowBatch.single(TOKENS)))


@torch.inference_mode()
def _reference_logits(folder: Path, **options: Any) -> Tensor:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options).float().eval()
    logits_TV: Tensor = model(TOKENS.unsqueeze(0), use_cache=False).logits[0]
    return logits_TV


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("changes", [WIDE, ODD], ids=["wide", "odd"])
def test_there_and_back_changes_nothing(tmp_path: Path, target: TargetFormat, changes: dict[str, Any]) -> None:
    first, _ = _convert(_source(tmp_path, **changes), target)
    plain, report = _convert(first, "bf16")
    again, _ = _convert(plain, target)
    assert all(tensor.error.relative_rms == 0 for tensor in report.tensors)
    assert _same(first, again)
    assert load_raw_config(first) == load_raw_config(again)


@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize("target", TARGETS)
def test_every_family_loads_to_the_values_that_were_written(tmp_path: Path, family: str, target: TargetFormat) -> None:
    output, report = _convert(_source(tmp_path, family), target)
    stored = _stored(output)
    state = _state(output)
    plain, _ = _convert(output, "bf16")
    again = _state(plain)
    assert all(torch.equal(value, again[name]) for name, value in state.items())
    assert sum(tensor.nbytes for tensor in report.tensors) == sum(value.nbytes for value in stored.values())
    compressed = {"bf16": torch.bfloat16, "fp8-ue8m0": torch.float8_e4m3fn, "mxfp4": torch.uint8}
    name = "model.layers.0.self_attn.o_proj.weight" + ("_packed" if target == "mxfp4" else "")
    assert stored[name].dtype == compressed[target]


def test_fp8_in_deepseeks_layout(tmp_path: Path) -> None:
    source = _source(tmp_path, **WIDE)
    output, report = _convert(source, "fp8-ue8m0")
    before, after = _stored(source), _stored(output)
    kinds = {name: value.dtype for name, value in after.items()}
    # Partial blocks too: the experts have 160 rows, kv_a_proj has 24.
    for name in (EXPERT, KV_A, "model.layers.0.mlp.gate_proj.weight"):
        assert kinds[name] == torch.float8_e4m3fn
        assert kinds[name + "_scale_inv"] == torch.float32
    assert after[EXPERT + "_scale_inv"].shape == (2, 1)
    for name in ("model.embed_tokens", "lm_head", "model.norm", "model.layers.1.mlp.gate", "model.layers.3.eh_proj"):
        assert torch.equal(after[name + ".weight"], before[name + ".weight"])
        assert kinds[name + ".weight"] == torch.bfloat16
    assert kinds["model.layers.1.mlp.gate.e_score_correction_bias"] == torch.float32
    assert report.not_portable == 0
    assert load_raw_config(output)["quantization_config"]["modules_to_not_convert"] == [
        "lm_head",
        "model.layers.3.shared_head.head",
    ]


def test_mxfp4_in_compressed_tensors_layout(tmp_path: Path) -> None:
    output, _ = _convert(_source(tmp_path, **WIDE), "mxfp4")
    stored = _stored(output)
    assert EXPERT not in stored
    assert (stored[EXPERT + "_packed"].dtype, stored[EXPERT + "_packed"].shape) == (torch.uint8, (160, 64))
    assert (stored[EXPERT + "_scale"].dtype, stored[EXPERT + "_scale"].shape) == (torch.uint8, (160, 4))
    assert stored["lm_head.weight"].dtype == stored["model.layers.1.mlp.gate.weight"].dtype == torch.bfloat16
    quantization = load_raw_config(output)["quantization_config"]
    assert quantization["format"] == "mxfp4-pack-quantized"
    assert quantization["ignore"] == ["lm_head", "model.layers.3.shared_head.head"]


def test_what_transformers_would_refuse_can_be_left_plain(tmp_path: Path) -> None:
    # 260 rows make three blocks, and thirds of them are no whole rows.
    source = _source(tmp_path, **{**WIDE, "moe_intermediate_size": 260})
    refused, report = _convert(source, "fp8-ue8m0")
    assert report.not_portable > 0
    with pytest.raises(RuntimeError, match="issues during automatic conversion"):
        _reference_logits(refused)
    output, report = _convert(source, "fp8-ue8m0", portable=True)
    stored = _stored(output)
    assert report.not_portable == 0
    assert stored[EXPERT].dtype == torch.bfloat16
    assert stored[KV_A].dtype == torch.float8_e4m3fn
    assert "model.layers.1.mlp.experts" in load_raw_config(output)["quantization_config"]["modules_to_not_convert"]
    assert (_reference_logits(output) - _logits(output)).abs().max() < 1e-4


def test_uneven_blocks_mean_the_same_to_every_reader(tmp_path: Path) -> None:
    """160 rows are blocks of 128 and 32 to DeepSeek, and of 80 and 80 to transformers."""
    decoder = _decoder(**WIDE)
    with torch.no_grad():
        # Halves so different that scales of their own would differ.
        decoder.state_dict()["model.layers.1.mlp.shared_experts.up_proj.weight"][128:] *= 100
    save_model(decoder, tmp_path / "source")
    output, report = _convert(tmp_path / "source", "fp8-ue8m0")
    assert report.not_portable == 0
    scale_hw = _stored(output)["model.layers.1.mlp.shared_experts.up_proj.weight_scale_inv"]
    assert scale_hw.shape == (2, 1)
    assert scale_hw[0] == scale_hw[1]
    assert (_reference_logits(output) - _logits(output)).abs().max() < 1e-4


def test_scales_that_uneven_blocks_came_with_are_kept(tmp_path: Path) -> None:
    source, _ = _convert(_source(tmp_path, **WIDE), "fp8-ue8m0")
    stored = _stored(source)
    scale_hw = stored[EXPERT + "_scale_inv"]
    scale_hw[1] *= 2.0**-12
    save_file(stored, source / "model.safetensors")
    plain, _ = _convert(source, "bf16")
    again, report = _convert(plain, "fp8-ue8m0")
    assert all(tensor.error.relative_rms == 0 for tensor in report.tensors)
    before, after = _state(source), _state(again)
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_experts_and_others_apart(tmp_path: Path) -> None:
    output, _ = _convert(_source(tmp_path, **WIDE), "mxfp4", others="fp8-ue8m0")
    stored = _stored(output)
    assert stored[EXPERT + "_packed"].dtype == torch.uint8
    shared = "model.layers.1.mlp.shared_experts.up_proj.weight"
    for name in (shared, "model.layers.0.self_attn.o_proj.weight"):
        assert stored[name].dtype == torch.float8_e4m3fn
        assert stored[name + "_scale"].dtype == torch.float32
    assert load_raw_config(output)["quantization_config"]["format"] == "mixed-precision"


def test_the_head_only_when_asked(tmp_path: Path) -> None:
    source = _source(tmp_path, **WIDE)
    output, report = _convert(source, "fp8-ue8m0", quantize_head=True)
    assert _stored(output)["lm_head.weight"].dtype == torch.float8_e4m3fn
    assert load_raw_config(output)["quantization_config"]["modules_to_not_convert"] == []
    [head] = [tensor for tensor in report.tensors if tensor.name == "lm_head.weight"]
    assert 0.01 < head.error.relative_rms < 0.05
    # What is lost is not brought back by asking for less; bf16 spells it out.
    kept, _ = _convert(output, "fp8-ue8m0")
    assert _same(output, kept)
    plain, _ = _convert(output, "bf16")
    assert _stored(plain)["lm_head.weight"].dtype == torch.bfloat16


def test_a_head_that_is_the_embedding_is_refused(tmp_path: Path) -> None:
    source = _source(tmp_path, "llama", tie_word_embeddings=True)
    with pytest.raises(ConfigError, match="tie_word_embeddings is true: the head is the embedding"):
        _convert(source, "fp8-ue8m0", quantize_head=True)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("target", TARGETS)
def test_reported_errors_are_those_of_the_files(tmp_path: Path, target: TargetFormat) -> None:
    source = _source(tmp_path, weight_format="float32", **ODD)
    output, report = _convert(source, target)
    before, after = _stored(source), _stored(output)
    for tensor in report.tensors:
        value = before[tensor.name]
        if tensor.stored == "fp8-ue8m0":
            codes, scale = after[tensor.name], after[tensor.name + "_scale_inv"]
            restored = dequantize_fp8_blocks(codes, scale, dtype=torch.float32)
        elif tensor.stored == "mxfp4":
            codes, scale = after[tensor.name + "_packed"], after[tensor.name + "_scale"]
            restored = dequantize_mxfp4(codes, scale, value.shape[1], torch.float32)
        else:
            restored = after[tensor.name].float()
        difference = (restored - value).double()
        relative = float(difference.norm() / value.double().norm())
        assert tensor.error.relative_rms == pytest.approx(relative, rel=1e-6)
        assert tensor.error.max_abs == float(difference.abs().max())
    largest = max(tensor.error.relative_rms for tensor in report.tensors)
    expected = {"bf16": (1e-3, 3e-3), "fp8-ue8m0": (0.02, 0.04), "mxfp4": (0.1, 0.15)}[target]
    assert expected[0] < largest < expected[1]


def test_float32_keeps_what_is_small(tmp_path: Path) -> None:
    source = _source(tmp_path, weight_format="float32")
    for target in TARGETS:
        output, _ = _convert(source, target)
        stored = _stored(output)
        assert stored["model.norm.weight"].dtype == torch.float32
        assert stored["model.layers.1.mlp.gate.weight"].dtype == torch.float32
        wide = torch.bfloat16 if target == "bf16" else torch.float32
        assert stored["model.embed_tokens.weight"].dtype == stored["lm_head.weight"].dtype == wide
        assert load_raw_config(output)["torch_dtype"] == str(wide).removeprefix("torch.")


def test_stacked_experts_are_taken_apart(tmp_path: Path) -> None:
    """transformers can write all experts of a layer as one tensor, which no compressed layout has."""
    source = _source(tmp_path)
    expected, _ = _convert(source, "mxfp4")
    stored = _stored(source)
    for layer in (1, 2, 3):
        prefix = f"model.layers.{layer}.mlp.experts."
        parts = {
            part: torch.stack([stored.pop(f"{prefix}{expert}.{part}.weight") for expert in range(8)])
            for part in ("gate_proj", "up_proj", "down_proj")
        }
        stored[prefix + "gate_up_proj"] = torch.cat((parts["gate_proj"], parts["up_proj"]), dim=1)
        stored[prefix + "down_proj"] = parts["down_proj"]
    stacked = tmp_path / "stacked"
    stacked.mkdir()
    save_file(stored, stacked / "model.safetensors")
    (stacked / "config.json").write_bytes((source / "config.json").read_bytes())
    output, _ = _convert(stacked, "mxfp4")
    assert _same(expected, output)
    # Stacked FP8 codes, whose halves meet within a block.
    fp8 = dict(stored)
    name = "model.layers.1.mlp.experts.gate_up_proj"
    fp8[name] = stored[name].to(torch.float8_e4m3fn)
    fp8[name + "_scale_inv"] = torch.full((8, 1, 1), 0.5)
    save_file(fp8, stacked / "model.safetensors")
    raw = {**load_raw_config(source), "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    (stacked / "config.json").write_text(json.dumps(raw))
    plain, _ = _convert(stacked, "bf16", max_shard_bytes=10_000)
    values = _state(plain)
    assert all(torch.equal(value, values[name]) for name, value in _state(stacked).items())


def test_scales_of_any_kind_become_powers_of_two(tmp_path: Path) -> None:
    source, _ = _convert(_source(tmp_path, **WIDE), "fp8-ue8m0")
    stored = _stored(source)
    stored[EXPERT + "_scale_inv"] = stored[EXPERT + "_scale_inv"] * 1.3
    save_file(stored, source / "model.safetensors")
    output, report = _convert(source, "fp8-ue8m0")
    changed = [tensor for tensor in report.tensors if tensor.error.relative_rms]
    assert [(tensor.name, tensor.source, tensor.stored) for tensor in changed] == [(EXPERT, "fp8", "fp8-ue8m0")]
    scale = _stored(output)[EXPERT + "_scale_inv"]
    assert torch.equal(torch.frexp(scale)[0], torch.full_like(scale, 0.5))


def test_shards(tmp_path: Path) -> None:
    source = _source(tmp_path, **WIDE)
    whole, _ = _convert(source, "fp8-ue8m0")
    split, _ = _convert(source, "fp8-ue8m0", max_shard_bytes=100_000)
    assert len(list(split.glob("*.safetensors"))) > 5
    assert all(path.stat().st_size < 120_000 for path in split.glob("*.safetensors"))
    assert _same(whole, split)
    back, _ = _convert(split, "bf16")
    assert _state(back).keys() == _state(whole).keys()


_FORMATS: list[tuple[TargetFormat, dict[str, Any]]] = [
    ("bf16", {}),
    ("fp8-ue8m0", {"quantize_head": True}),
    ("mxfp4", {}),
    ("mxfp4", {"others": "fp8-ue8m0"}),
    ("mxfp4", {"others": "bf16"}),
]


@pytest.mark.filterwarnings("ignore:You passed `quantization_config`")  # asks for plain weights in memory
@pytest.mark.parametrize(("target", "options"), _FORMATS)
@pytest.mark.parametrize("family", ["deepseek_v3", "qwen2", "qwen3_moe"])
def test_transformers_reads_the_same_logits(
    tmp_path: Path, family: str, target: TargetFormat, options: dict[str, Any]
) -> None:
    sizes: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 256, "moe_intermediate_size": 64}
    if family == "deepseek_v3":
        # Groups of 32 cover every row.
        sizes |= {"kv_lora_rank": 64, "q_lora_rank": 96, "v_head_dim": 32}
    source = _source(tmp_path, family, **sizes, tie_word_embeddings=False)
    output, _ = _convert(source, target, **options)
    method = load_raw_config(output).get("quantization_config", {}).get("quant_method")
    plain = {"quantization_config": CompressedTensorsConfig(dequantize=True)} if method == "compressed-tensors" else {}
    assert (_reference_logits(output, **plain) - _logits(output)).abs().max() < 1e-4


def test_transformers_reads_mxfp4_with_a_quantised_head(tmp_path: Path) -> None:
    """Two formats among dense modules: only its default mode, which computes in bfloat16, tells them apart."""
    source = _source(tmp_path, "qwen2", hidden_size=128, intermediate_size=64, tie_word_embeddings=False)
    output, _ = _convert(source, "mxfp4", quantize_head=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(output, dtype=torch.bfloat16).eval()
    with torch.inference_mode():
        theirs_TV = model(TOKENS.unsqueeze(0), use_cache=False).logits[0].float()
    ours_TV = _logits(output)
    assert (theirs_TV - ours_TV).norm() / ours_TV.norm() < 0.02


def test_what_comes_along_and_what_does_not(tmp_path: Path) -> None:
    source = _source(tmp_path)
    raw = load_raw_config(source) | {"auto_map": {"AutoConfig": "evil.Config"}, "kept": 1}
    (source / "config.json").write_text(json.dumps(raw))
    along = ("tokenizer.json", "generation_config.json", "chat_template.jinja", "LICENSE", "license-code.txt", "NOTICE")
    left = ("modeling_evil.py", "pytorch_model.bin", "consolidated.pth", "README.md", "licenses.py")
    for name in (*along, *left):
        (source / name).write_text("{}")
    output, _ = _convert(source, "fp8-ue8m0")
    assert {path.name for path in output.iterdir()} == {*along, "config.json", "model.safetensors"}
    written = load_raw_config(output)
    assert "auto_map" not in written
    assert written["kept"] == 1


_KILLED = """
import os, signal, sys
from deepground.model import ConversionOptions, convert_model
calls = 0
def show(done, total, name):
    global calls
    calls += 1
    if calls == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
convert_model(sys.argv[1], sys.argv[2], ConversionOptions(target="fp8-ue8m0", max_shard_bytes=100_000), show)
"""


@pytest.mark.parametrize("calls", [2, 40])
def test_kill_minus_nine_leaves_nothing_that_loads(tmp_path: Path, calls: int) -> None:
    source, output = _source(tmp_path), tmp_path / "output"
    expected, _ = _convert(source, "fp8-ue8m0", max_shard_bytes=100_000)
    command = [sys.executable, "-c", _KILLED, str(source), str(output), str(calls)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not output.exists()
    [leftover] = tmp_path.glob(".output.partial-*")
    assert (leftover / MARKER).exists()
    with pytest.raises(ModelFolderError):
        load_model(leftover)
    convert_model(source, output, ConversionOptions(target="fp8-ue8m0", max_shard_bytes=100_000))
    assert _same(output, expected)
    assert {path.name for path in tmp_path.iterdir()} == {source.name, output.name, expected.name}


def test_a_truncated_source_gives_a_sentence_and_no_output(tmp_path: Path) -> None:
    source = _source(tmp_path)
    path = source / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match=r"model\.safetensors is truncated: the tensor .* download it again"):
        _convert(source, "fp8-ue8m0")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("target", TARGETS)
def test_a_weight_that_is_not_finite_is_refused(tmp_path: Path, target: TargetFormat, value: float) -> None:
    source = _source(tmp_path, weight_format="float32")
    stored = _stored(source)
    stored[EXPERT][3, 5] = value
    save_file(stored, source / "model.safetensors")
    with pytest.raises(WeightsError, match=r"experts\.0\.up_proj\.weight: the weight holds NaN"):
        _convert(source, target)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_an_output_that_is_in_the_way_is_refused(tmp_path: Path) -> None:
    source = _source(tmp_path)
    before = _stored(source)
    for output in (source, tmp_path):
        with pytest.raises(ModelFolderError, match="is there already and not empty"):
            convert_model(source, output, ConversionOptions(target="bf16"))
    assert all(torch.equal(value, _stored(source)[name]) for name, value in before.items())
    (tmp_path / "empty").mkdir()
    convert_model(source, tmp_path / "empty", ConversionOptions(target="bf16"))
    assert _same(source, tmp_path / "empty")


def test_progress_and_report(tmp_path: Path) -> None:
    source = _source(tmp_path)
    calls: list[tuple[int, int, str]] = []
    report = convert_model(
        source, tmp_path / "out", ConversionOptions(target="mxfp4"), lambda *values: calls.append(values)
    )
    total = sum(value.nbytes for value in _stored(source).values())
    assert calls[0] == (0, total, "model.embed_tokens.weight")
    assert calls[-1] == (total, total, "")
    assert [done for done, _, _ in calls] == sorted(done for done, _, _ in calls)
    written = json.loads(json.dumps(report.as_json(), allow_nan=False))
    assert {tensor["name"] for tensor in written["tensors"]} == _stored(source).keys()
    by_name = {tensor["name"]: tensor for tensor in written["tensors"]}
    assert by_name["model.norm.weight"]["error"] == {"relative_rms": 0.0, "max_abs": 0.0, "snr_db": None}
    assert 15 < by_name[EXPERT]["error"]["snr_db"] < 25
    assert sum(group.tensors for group in report.summary()) == len(report.tensors)
