"""Rounding to FP8 with power-of-two scales, and products that use it."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from deepground.kernels import dequantize_fp8_blocks, quantize_fp8_ue8m0
from deepground.model import RowBatch
from deepground.train.fp8 import Fp8Products, round_blocks, round_groups
from training_samples import tiny_decoder


def test_weights_are_rounded_as_they_are_stored() -> None:
    weight = torch.randn(300, 200, generator=torch.Generator().manual_seed(0)) * 0.05
    stored = dequantize_fp8_blocks(*quantize_fp8_ue8m0(weight), dtype=torch.float32)
    torch.testing.assert_close(round_blocks(weight), stored, atol=0, rtol=0)


def test_groups_have_scales_of_their_own() -> None:
    x = torch.cat((torch.full((3, 128), 1e-3), torch.full((3, 128), 1e3), torch.full((3, 5), 7.0)), dim=1)
    rounded = round_groups(x)
    torch.testing.assert_close(rounded, x, atol=0, rtol=2**-4)
    assert rounded.shape == x.shape
    assert torch.equal(round_groups(rounded), rounded)
    assert torch.equal(round_groups(torch.zeros(2, 130)), torch.zeros(2, 130))


def test_products_and_their_gradients_are_near_the_exact_ones() -> None:
    decoder = tiny_decoder()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 64, generator=generator, requires_grad=True)
    weight = torch.randn(96, 64, generator=generator, requires_grad=True)
    gradient = torch.randn(40, 96, generator=generator)
    exact = F.linear(x, weight)
    wanted = torch.autograd.grad(exact, (x, weight), gradient)
    with Fp8Products(decoder):
        rounded = F.linear(x, weight)
    found = torch.autograd.grad(rounded, (x, weight), gradient)
    for a, b in zip((exact, *wanted), (rounded, *found), strict=True):
        error = (a - b).norm() / a.norm()
        assert 1e-3 < error < 0.06


def test_head_and_router_stay_exact() -> None:
    decoder = tiny_decoder().train()
    batch = RowBatch.single(torch.arange(10, 30))
    hidden = decoder(batch)
    logits, scores = decoder.logits(hidden), decoder.model.layers[1].mlp.gate(hidden)[2]
    with Fp8Products(decoder):
        assert not torch.equal(decoder(batch), hidden)
        assert torch.equal(decoder.logits(hidden), logits)
        assert torch.equal(decoder.model.layers[1].mlp.gate(hidden)[2], scores)
