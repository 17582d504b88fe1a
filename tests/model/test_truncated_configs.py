"""The released models' own configs, cut to two layers, with random weights: written, loaded, run.

Heads, latents and hidden sizes are the real ones. Cut down, so that the largest takes under 2 GB and a few
seconds: layers, vocabulary (to 1,000), routed experts and, for DeepSeek-V3, whose two layers would have a
billion parameters, the widths of the feed-forward blocks.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from config_samples import REAL
from deepground.model import KVCache, PagedBatch, RowBatch, Span, load_model
from deepground.model.families import read_config
from deepground.model.raw_weights import FP8_SCALE
from deepground.model.weights import TensorSpec, tensors

CUTS: dict[str, dict[str, Any]] = {
    "DeepSeek-V3": {
        "num_hidden_layers": 2,
        "first_k_dense_replace": 1,
        "n_routed_experts": 16,
        "intermediate_size": 1152,
        "moe_intermediate_size": 128,
        "num_nextn_predict_layers": 0,
    },
    "DeepSeek-V2-Lite": {"num_hidden_layers": 2, "n_routed_experts": 8},
    "DeepSeek-R1-Distill-Qwen-1.5B": {"num_hidden_layers": 2},
    "DeepSeek-R1-Distill-Llama-8B": {"num_hidden_layers": 1},
}
TOKENS = torch.tensor([11, 7, 5, 3, 2])
BLOCK = 128
POOL = 1_000_003
"""Prime, so that no two rows of a matrix are alike."""


class Pools:
    """Random values to fill tensors from."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.normal = torch.randn(POOL, generator=generator).bfloat16()
        # Every code below 16 in magnitude: 88 of either sign.
        magnitudes = torch.randint(0, 88, (POOL,), dtype=torch.uint8, generator=generator)
        self.codes = magnitudes + 128 * torch.randint(0, 2, (POOL,), dtype=torch.uint8, generator=generator)


def _tiled(pool: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor filled from a pool of random values, again and again: drawing each one would take most of the time."""
    size = math.prod(shape)
    return pool.repeat(-(-size // pool.numel()))[:size].reshape(shape)


def _random_tensors(spec: TensorSpec, pools: Pools, *, fp8: bool) -> Iterator[tuple[str, Tensor]]:
    """One checkpoint tensor as a release stores it; matrices keep the size of what they multiply."""
    if spec.role == "norm":
        yield spec.name, torch.ones(spec.shape, dtype=torch.bfloat16)
    elif spec.role == "selection_bias":
        yield spec.name, _tiled(pools.normal, spec.shape).float()
    elif fp8 and spec.role in ("matrix", "experts"):
        yield spec.name, _tiled(pools.codes, spec.shape).view(torch.float8_e4m3fn)
        grid = tuple(math.ceil(extent / BLOCK) for extent in spec.shape)
        yield spec.name + FP8_SCALE, torch.full(grid, 2.0 ** -round(math.log2(4 * spec.shape[1] ** 0.5)))
    else:
        std = 1.0 if spec.role in ("embedding", "bias") else spec.shape[-1] ** -0.5
        yield spec.name, _tiled(pools.normal, spec.shape).mul_(std)


def _write_folder(name: str, folder: Path) -> None:
    raw = {**REAL[name], **CUTS[name], "vocab_size": 1000, "bos_token_id": 0, "eos_token_id": 1}
    (folder / "config.json").write_text(json.dumps(raw))
    pools = Pools()
    stored: dict[str, Tensor] = {}
    for spec in tensors(read_config(raw)):
        stored.update(_random_tensors(spec, pools, fp8="quantization_config" in raw))
    save_file(stored, folder / "model.safetensors")


@pytest.mark.parametrize("name", CUTS)
def test_a_cut_release_loads_and_runs(name: str, tmp_path: Path) -> None:
    try:
        _write_folder(name, tmp_path)
        decoder = load_model(tmp_path, dtype="bfloat16")
    finally:
        # Hundreds of megabytes, which pytest would keep for three runs.
        shutil.rmtree(tmp_path)
    cache = KVCache(decoder.config, len(TOKENS), dtype=torch.bfloat16)
    slots = torch.arange(len(TOKENS))
    with torch.inference_mode():
        whole = decoder.logits(decoder(RowBatch.single(TOKENS)))
        for context, length in ((0, 4), (4, 1)):
            new = slice(context, context + length)
            span = Span(start=0, length=length, context=context, slots=slots[: context + length])
            batch = PagedBatch(token_ids_T=TOKENS[new], positions_T=slots[new], spans=(span,), cache=cache)
            logits = decoder.logits(decoder(batch)[-1:])
    assert whole.shape == (5, 1000)
    assert bool(torch.isfinite(whole).all())
    # Not a constant: other tokens, other logits. And the cached step agrees to bf16's 8 bits.
    assert bool((whole[0] - whole[-1]).abs().max() > 0.1)
    assert (logits[0] - whole[-1]).abs().max() < 0.05 * whole.abs().max()
