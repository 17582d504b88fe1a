"""Where a checkpoint's experts lie, and how memory is planned.

Legend: T tokens, D hidden size, E experts, F expert width, K experts per token.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from deepground.errors import EngineError, OutOfMemoryError, UnsupportedModelError, WeightsError
from deepground.kernels import DensePart, ExpertBank, ExpertStore, StreamedBank, start_native
from deepground.kernels.native import native_module
from deepground.model import ModelConfig, RowBatch, load_decoder, load_native, load_raw_config
from deepground.model.buffered_files import BufferedCheckpoint
from deepground.model.config_fields import Fields
from deepground.model.expert_streaming import (
    ExpertLayers,
    MemoryPlan,
    StreamingEstimate,
    estimate,
    expert_layers,
    measure_read_speed,
    plan_memory,
)
from deepground.model.families import read_config
from deepground.model.loading import match_tensors
from deepground.model.packed_weights import PackedWeights, read_packed
from deepground.model.quantization import check_quantization
from deepground.model.random_model import write_random_model
from deepground.model.saving import WeightFormat
from deepground.model.tensor_files import Checkpoint
from tiny_configs import MOE as TINY_MOE
from tiny_configs import random_tokens, tiny_config

GIB = 2**30
MOE = replace(TINY_MOE, shared_intermediate_size=0)
CONFIG = tiny_config(moe=MOE, num_mtp_layers=1, num_layers=3, moe_layers=frozenset({1, 2, 3}), hidden_size=48)


@pytest.fixture(autouse=True)
def _started() -> None:
    start_native(2)


def read(folder: Path) -> tuple[ModelConfig, ExpertLayers, PackedWeights]:
    raw = load_raw_config(folder)
    config, quantization = read_config(raw), check_quantization(Fields(raw))
    with BufferedCheckpoint(folder) as checkpoint:
        rows = match_tensors(config, checkpoint)
        return (
            config,
            expert_layers(checkpoint, rows, quantization),
            read_packed(checkpoint, config, rows, quantization),
        )


def run(bank: ExpertBank | StreamedBank, width: int, experts: int) -> Tensor:
    """All experts on a few tokens."""
    generator = torch.Generator().manual_seed(0)
    x_TD, weights_TK = torch.randn(3, width, generator=generator), torch.rand(3, experts, generator=generator)
    ids_TK = torch.arange(experts, dtype=torch.int32).repeat(3, 1)
    out_TD = torch.empty_like(x_TD)
    addresses = (ids_TK.data_ptr(), weights_TK.data_ptr(), experts, out_TD.data_ptr(), width, False)
    native_module().moe_experts(bank.handle, None, x_TD.data_ptr(), width, 3, *addresses)
    return out_TD


def assert_layers_match(config: ModelConfig, layers: ExpertLayers, packed: PackedWeights) -> None:
    assert config.moe is not None
    count = config.moe.num_experts
    store = ExpertStore(list(layers.values()), budget_bytes=2**22)
    for prefix, streamed in zip(layers, store.banks, strict=True):
        parts = [
            DensePart(**{name: packed.experts[prefix, expert, name] for name in ("gate", "up", "down")})
            for expert in range(count)
        ]
        wanted_TD = run(ExpertBank(parts), config.hidden_size, count)
        assert torch.equal(run(streamed, config.hidden_size, count), wanted_TD)
        assert wanted_TD.abs().max() > 0


@pytest.mark.parametrize("weight_format", ["float32", "bfloat16", "fp8-ue8m0", "mxfp4"])
def test_every_expert_is_found_where_it_lies(tmp_path: Path, weight_format: WeightFormat) -> None:
    write_random_model(CONFIG, tmp_path / "model", weight_format=weight_format, max_shard_bytes=40_000)
    config, layers, packed = read(tmp_path / "model")
    prefixes = ["model.layers.1.mlp.experts", "model.layers.2.mlp.experts", "model.mtp_layers.0.mlp.experts"]
    assert sorted(layers) == prefixes
    assert len({part.codes.path for layer in layers.values() for one in layer for part in (one.gate, one.down)}) > 1
    assert_layers_match(config, layers, packed)


def stack(folder: Path) -> None:
    """Rewrite a folder's experts in the stacked form."""
    tensors = load_file(folder / "model.safetensors")
    for layer in (1, 2, 3):
        base = f"model.layers.{layer}.mlp.experts."
        for suffix in ("", "_scale_inv"):
            if base + "0.up_proj.weight" + suffix not in tensors:
                continue
            parts = {
                name: [tensors.pop(f"{base}{expert}.{name}_proj.weight{suffix}") for expert in range(MOE.num_experts)]
                for name in ("gate", "up", "down")
            }
            both = [torch.cat(pair) for pair in zip(parts["gate"], parts["up"], strict=True)]
            tensors[f"{base}gate_up_proj{suffix}"] = torch.stack(both)
            tensors[f"{base}down_proj{suffix}"] = torch.stack(parts["down"])
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("weight_format", ["bfloat16", "fp8-ue8m0"])
def test_stacked_experts(tmp_path: Path, weight_format: WeightFormat) -> None:
    inner = 128 if weight_format == "fp8-ue8m0" else 16
    config = replace(CONFIG, moe=replace(MOE, intermediate_size=inner))
    write_random_model(config, tmp_path / "model", weight_format=weight_format)
    stack(tmp_path / "model")
    assert_layers_match(*read(tmp_path / "model"))


def test_formats_that_cannot_be_streamed_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write_random_model(CONFIG, folder, weight_format="bfloat16")
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor.half() for name, tensor in tensors.items()}, folder / "model.safetensors")
    with pytest.raises(UnsupportedModelError, match=r"is F16, which is not read from disk .* `deepground convert"):
        read(folder)


def plan(folder: Path, **options: int | None) -> MemoryPlan:
    raw = load_raw_config(folder)
    config = read_config(raw)
    with Checkpoint(folder) as checkpoint:
        made = plan_memory(config, checkpoint, match_tensors(config, checkpoint), **options)
    made.check()
    return made


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose experts are most of it: 3 x 16 of 0.4 MB in FP8."""
    folder = tmp_path_factory.mktemp("large") / "model"
    moe = replace(MOE, num_experts=16, intermediate_size=512)
    write_random_model(replace(CONFIG, hidden_size=256, moe=moe), folder, weight_format="fp8-ue8m0")
    return folder


def test_a_model_that_fits_is_not_streamed(large: Path) -> None:
    made = plan(large, memory_limit=64 * GIB)
    assert not made.streams
    assert made.experts == pytest.approx(48 * 3 * 256 * 512, rel=0.03)
    assert made.least == pytest.approx(2 * 3 * 256 * 512, rel=0.03)
    assert made.budget == made.experts
    assert not plan(large).streams


def test_a_model_that_does_not_fit_gets_what_is_left(large: Path) -> None:
    whole = plan(large, memory_limit=64 * GIB, cache_bytes=2**20)
    rest = psutil.Process().memory_info().rss + whole.resident + whole.work + whole.cache
    made = plan(large, memory_limit=rest + whole.experts // 2, cache_bytes=2**20)
    assert made.streams
    # The process's own memory changes between the two.
    assert made.budget == pytest.approx(whole.experts // 2, abs=8 * 2**20)
    assert made.resident + made.cache + made.work + made.budget <= made.limit


def test_a_limit_below_what_every_token_needs_is_refused(large: Path) -> None:
    with pytest.raises(OutOfMemoryError, match=r"even with its experts on disk the model needs .* GiB of memory"):
        plan(large, memory_limit=2**20)


def test_a_dense_model_is_refused_plainly(tmp_path: Path) -> None:
    dense = tiny_config(moe=None, moe_layers=frozenset())
    write_random_model(dense, tmp_path / "dense")
    assert not plan(tmp_path / "dense", memory_limit=64 * GIB).streams
    with pytest.raises(OutOfMemoryError, match="the model needs"):
        plan(tmp_path / "dense", memory_limit=2**20)


def test_the_estimate_says_what_a_token_reads(large: Path) -> None:
    config, layers, _ = read(large)
    made = MemoryPlan(limit=GIB, resident=GIB // 2, experts=GIB, cache=0, work=GIB // 4, least=2**20)
    guess = estimate(config, layers, made)
    assert guess.bytes_per_token == 2 * 2 * 3 * 256 * 512, "two layers of two experts; the MTP layer is not counted"
    assert guess.held_share == 0.25
    assert guess.read_speed > 1e6
    text = guess.describe()
    assert "hold 25% of them" in text
    assert f"{guess.bytes_per_token / 1e6:.0f} MB of experts" in text


def test_speed_at_a_hit_rate() -> None:
    made = MemoryPlan(limit=10, resident=1, experts=100, cache=1, work=1, least=1)
    guess = StreamingEstimate(plan=made, bytes_per_token=50, read_speed=1000.0)
    assert guess.tokens_per_second(0) == 20
    assert guess.tokens_per_second(0.5) == 40
    assert guess.tokens_per_second(1) == float("inf")


def test_an_unreadable_file_is_named(large: Path) -> None:
    _, layers, _ = read(large)
    place = layers["model.layers.1.mlp.experts"][0].gate
    gone = replace(place, codes=replace(place.codes, path=large / "gone"))
    with pytest.raises(WeightsError, match="gone"):
        measure_read_speed({"x": [replace(layers["model.layers.1.mlp.experts"][0], gate=gone)]})


def limit_for(folder: Path, experts_share: float, cache_bytes: int) -> int:
    """A memory limit that leaves room for a share of the experts."""
    whole = plan(folder, memory_limit=64 * GIB, cache_bytes=cache_bytes)
    rest = psutil.Process().memory_info().rss + whole.resident + whole.work + whole.cache
    return int(rest + experts_share * whole.experts)


def test_a_model_from_disk_computes_the_same(large: Path, caplog: pytest.LogCaptureFixture) -> None:
    resident = load_native(large, threads=2)
    assert resident.expert_stats() is None
    assert resident.cache_bytes is None
    streamed = load_native(large, threads=2, memory_limit=limit_for(large, 0.4, 2**20), cache_bytes=2**20)
    assert "stay on disk" in caplog.text
    assert streamed.cache_bytes == 2**20
    assert not streamed.weights.experts
    for length in (1, 30, 3):
        batch = RowBatch.single(random_tokens(length, seed=length))
        wanted_TD = resident(batch)
        assert torch.equal(streamed(batch), wanted_TD)
        assert torch.equal(streamed.logits(wanted_TD), resident.logits(wanted_TD))
        after_TD = streamed.mtp_hidden(wanted_TD, random_tokens(length), batch)
        assert torch.equal(after_TD, resident.mtp_hidden(wanted_TD, random_tokens(length), batch))
    stats = streamed.expert_stats()
    assert stats is not None
    assert stats.hits > 0
    assert stats.misses > stats.slots


def test_a_file_that_changes_fails_the_pass_and_not_the_process(large: Path) -> None:
    streamed = load_native(large, threads=2, memory_limit=limit_for(large, 0.1, 2**20), cache_bytes=2**20)
    batch = RowBatch.single(random_tokens(20))
    wanted_TD = streamed(batch)
    file = large / "model.safetensors"
    modified = file.stat().st_mtime_ns
    os.utime(file, ns=(modified, modified + 1))
    with pytest.raises(WeightsError, match=r"model\.safetensors was changed while it was in use; restore it"):
        streamed(batch)
    os.utime(file, ns=(modified, modified))
    assert torch.equal(streamed(batch), wanted_TD)


def test_torch_refuses_a_memory_limit(large: Path) -> None:
    with pytest.raises(
        EngineError, match=r"memory_limit is for the native kernels, but dtype is float32; leave it out"
    ):
        load_decoder(large, dtype="float32", memory_limit=GIB)
