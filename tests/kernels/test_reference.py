from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deepground import kernels


def _random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_rms_norm_has_unit_mean_square_before_the_weight(dtype: torch.dtype, tolerance: float) -> None:
    x_TD, weight_D = _random(5, 64, dtype=dtype) * 7, torch.full((64,), 3.0, dtype=dtype)
    out_TD = kernels.rms_norm(x_TD, weight_D, 0.0)
    assert out_TD.dtype == dtype
    mean_square_T = out_TD.float().square().mean(-1)
    torch.testing.assert_close(mean_square_T, torch.full((5,), 9.0), rtol=tolerance, atol=0)


def test_rms_norm_statistics_are_float32_for_bfloat16() -> None:
    """Squares of large bfloat16 values would lose the small ones if they were added in bfloat16."""
    x_TD = torch.cat((torch.full((1, 8), 100.0), torch.full((1, 2040), 1.0)), dim=1).to(torch.bfloat16)
    exact = x_TD.double() * (x_TD.double().square().mean(-1, keepdim=True)).rsqrt()
    out_TD = kernels.rms_norm(x_TD, torch.ones(2048, dtype=torch.bfloat16), 0.0)
    torch.testing.assert_close(out_TD.double(), exact, rtol=2**-8, atol=0)


def test_swiglu() -> None:
    gate, up = _random(3, 5), _random(3, 5, seed=1)
    torch.testing.assert_close(kernels.swiglu(gate, up), gate / (1 + (-gate).exp()) * up)


def _angles(positions: list[int], pairs: int) -> tuple[Tensor, Tensor]:
    angles = torch.tensor(positions)[:, None] * (10.0 ** -torch.arange(pairs))
    return angles.cos(), angles.sin()


def test_interleaved_rope_is_a_complex_product() -> None:
    x_TW = _random(6, 8)
    cos_TR, sin_TR = _angles([0, 1, 2, 5, 9, 100], 4)
    turned = torch.view_as_complex(x_TW.view(6, 4, 2)) * torch.complex(cos_TR, sin_TR)
    wanted = torch.cat((turned.real, turned.imag), dim=-1)
    torch.testing.assert_close(kernels.apply_rope(x_TW, cos_TR, sin_TR, interleaved=True), wanted)


def test_half_split_rope_is_interleaved_rope_of_reordered_pairs() -> None:
    x_TW = _random(6, 8)
    tables = _angles([0, 1, 2, 5, 9, 100], 4)
    pairs_TW = x_TW.view(6, 2, 4).transpose(1, 2).reshape(6, 8)
    half = kernels.apply_rope(x_TW, *tables, interleaved=False)
    torch.testing.assert_close(half, kernels.apply_rope(pairs_TW, *tables, interleaved=True))


@pytest.mark.parametrize("interleaved", [True, False])
def test_rope_products_depend_on_distance_only(interleaved: bool) -> None:
    q, k = _random(1, 8), _random(1, 8, seed=1)

    def product(q_position: int, k_position: int) -> Tensor:
        turned = [
            kernels.apply_rope(x, *_angles([position], 4), interleaved=interleaved)
            for x, position in ((q, q_position), (k, k_position))
        ]
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(product(7, 3), product(104, 100), rtol=1e-4, atol=1e-4)


def _naive_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, seen: Tensor) -> Tensor:
    repeats = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    scores = (q @ k.transpose(-1, -2) * scale).masked_fill(~seen, float("-inf"))
    return scores.softmax(-1) @ v


ATTENTION_CASES = list(itertools.product([(4, 4), (4, 2), (4, 1)], [8, 5, 12], ["causal", "float", "bool"]))


@pytest.mark.parametrize(("heads", "value_width", "kind"), ATTENTION_CASES)
def test_attention_equals_softmax_by_hand(heads: tuple[int, int], value_width: int, kind: str) -> None:
    q, k, v = (
        _random(2, heads[0], 7, 8),
        _random(2, heads[1], 7, 8, seed=1),
        _random(2, heads[1], 7, value_width, seed=2),
    )
    seen = torch.ones(7, 7, dtype=torch.bool).tril()
    if kind != "causal":
        seen = seen & (torch.rand(2, 1, 7, 7, generator=torch.Generator().manual_seed(3)) < 0.6) | torch.eye(7).bool()
    mask = {
        "causal": None,
        "bool": seen,
        "float": torch.zeros(seen.shape).masked_fill(~seen, float("-inf")),
    }[kind]
    out = kernels.attention(q, k, v, scale=0.3, mask=mask, causal=kind == "causal")
    torch.testing.assert_close(out, _naive_attention(q, k, v, 0.3, seen), rtol=1e-5, atol=1e-5)


def _naive_experts(x: Tensor, ids: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    rows = []
    for token in range(x.shape[0]):
        total = torch.zeros_like(x[token])
        for expert, weight in zip(ids[token].tolist(), weights[token], strict=True):
            gate, up = (gate_up[expert] @ x[token]).chunk(2)
            total = total + weight * (down[expert] @ (F.silu(gate) * up))
        rows.append(total)
    return torch.stack(rows)


@pytest.mark.parametrize("tokens", [1, 2, 9])
def test_experts_equal_a_loop_over_tokens_with_gradients(tokens: int) -> None:
    inputs = [
        _random(tokens, 6, dtype=torch.float64).requires_grad_(),
        _random(tokens, 2, seed=1, dtype=torch.float64).requires_grad_(),
        _random(5, 8, 6, seed=2, dtype=torch.float64).requires_grad_(),
        _random(5, 6, 4, seed=3, dtype=torch.float64).requires_grad_(),
    ]
    x, weights, gate_up, down = inputs
    scores = torch.rand(tokens, 4, generator=torch.Generator().manual_seed(4))
    ids = scores.topk(2, dim=-1).indices  # The fifth expert is never chosen.
    out = kernels.moe_experts(x, ids, weights, gate_up, down)
    wanted = _naive_experts(x, ids, weights, gate_up, down)
    torch.testing.assert_close(out, wanted)
    upstream = _random(tokens, 6, seed=5, dtype=torch.float64)
    for got, by_hand in zip(
        torch.autograd.grad(out, inputs, upstream), torch.autograd.grad(wanted, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(got, by_hand)
