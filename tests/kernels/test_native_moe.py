"""The native mixture of experts against plain torch.

Legend: T tokens, D model width, E experts, F inner width, K experts per token; N outputs and K inputs of a matrix.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from deepground import kernels
from deepground.kernels import _native
from deepground.model.config import MoeConfig
from deepground.model.moe import Router

FORMATS = ("f32", "bf16", "fp8", "mxfp4")
ISAS = [*_native.supported(), *_native.emulated()]
HALF_PRECISION_ISAS = {"avx512_bf16", "amx", "avx512_bf16_emulated", "amx_emulated", "neon_bf16"}
"""They round activations to bfloat16."""


def _tolerance() -> float:
    return 2e-2 if _native.isa() in HALF_PRECISION_ISAS else 2e-5


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pack(weight_NK: Tensor, number_format: str) -> tuple[_native.Matrix, Tensor]:
    """A packed matrix and the values that it holds."""
    n, k = weight_NK.shape
    matrix = _native.Matrix(number_format, n, k)
    if number_format == "f32":
        matrix.pack(weight_NK.data_ptr(), k, 0, 0, 0)
        return matrix, weight_NK
    if number_format == "bf16":
        rounded = weight_NK.bfloat16()
        matrix.pack(rounded.data_ptr(), k, 0, 0, 0)
        return matrix, rounded.float()
    if number_format == "fp8":
        codes, scales = kernels.quantize_fp8_ue8m0(weight_NK)
        matrix.pack(codes.data_ptr(), k, scales.data_ptr(), scales.shape[1], 128)
        return matrix, kernels.dequantize_fp8_blocks(codes, scales, dtype=torch.float32)
    codes, exponents = kernels.quantize_mxfp4(weight_NK)
    matrix.pack(codes.data_ptr(), codes.shape[1], exponents.data_ptr(), exponents.shape[1], 0)
    return matrix, kernels.dequantize_mxfp4(codes, exponents, k, torch.float32)


@dataclass(frozen=True)
class Layer:
    experts: _native.Experts
    shared: _native.Expert | None
    gate_up_EFD: Tensor
    down_EDF: Tensor
    shared_weights: tuple[Tensor, Tensor, Tensor] | None


def layer(number_format: str, *, experts: int, width: int, inner: int, shared: int = 0) -> Layer:
    packed, gate_up, down = [], [], []
    for expert in range(experts):
        gate, gate_FD = pack(_random(inner, width, seed=3 * expert) / width**0.5, number_format)
        up, up_FD = pack(_random(inner, width, seed=3 * expert + 1) / width**0.5, number_format)
        low, down_DF = pack(_random(width, inner, seed=3 * expert + 2) / inner**0.5, number_format)
        packed.append(_native.Expert(gate, up, low))
        gate_up.append(torch.cat((gate_FD, up_FD)))
        down.append(down_DF)
    both, values = None, None
    if shared:
        parts = [
            pack(_random(*shape, seed=1000 + i) / shape[1] ** 0.5, number_format)
            for i, shape in enumerate(((shared, width), (shared, width), (width, shared)))
        ]
        both = _native.Expert(*(matrix for matrix, _ in parts))
        values = (parts[0][1], parts[1][1], parts[2][1])
    return Layer(_native.Experts(packed), both, torch.stack(gate_up), torch.stack(down), values)


def choices(tokens: int, experts: int, top_k: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Ids (T, K) int32, unsorted, and weights (T, K)."""
    ids_TK = _random(tokens, experts, seed=seed + 50).argsort(dim=1)[:, :top_k].to(torch.int32).contiguous()
    return ids_TK, _random(tokens, top_k, seed=seed + 51).sigmoid()


def run(
    experts: _native.ExpertSet,
    shared: _native.Expert | None,
    x_TD: Tensor,
    ids_TK: Tensor,
    weights_TK: Tensor,
    added_to: Tensor | None = None,
) -> Tensor:
    tokens, width = x_TD.shape
    out_TD = torch.full((tokens, width), float("nan")) if added_to is None else added_to.clone()
    _native.moe_experts(
        experts,
        shared,
        x_TD.data_ptr(),
        x_TD.stride(0),
        tokens,
        ids_TK.data_ptr(),
        weights_TK.data_ptr(),
        ids_TK.shape[1],
        out_TD.data_ptr(),
        width,
        added_to is not None,
    )
    return out_TD


def expected(block: Layer, x_TD: Tensor, ids_TK: Tensor, weights_TK: Tensor) -> Tensor:
    """In float64."""
    x_TD, ids_TK = x_TD.double(), ids_TK.long()
    out_TD = kernels.moe_experts(x_TD, ids_TK, weights_TK.double(), block.gate_up_EFD.double(), block.down_EDF.double())
    if block.shared_weights is not None:
        gate, up, down = (weight.double() for weight in block.shared_weights)
        out_TD = out_TD + kernels.linear(kernels.swiglu(x_TD @ gate.T, x_TD @ up.T), down)
    return out_TD


def assert_close(out_TD: Tensor, wanted_TD: Tensor) -> None:
    torch.testing.assert_close(out_TD.double(), wanted_TD, rtol=0, atol=_tolerance() * float(wanted_TD.abs().max()))


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    _native.start(name, 2, [])
    return name


@pytest.mark.parametrize("number_format", FORMATS)
@pytest.mark.parametrize(
    ("experts", "width", "inner", "top_k", "shared"),
    [(4, 64, 32, 2, 0), (7, 77, 45, 3, 33), (5, 128, 200, 5, 64), (3, 40, 1, 1, 1), (1, 33, 17, 1, 0)],
)
def test_experts_match_the_reference(
    isa: str, number_format: str, experts: int, width: int, inner: int, top_k: int, shared: int
) -> None:
    block = layer(number_format, experts=experts, width=width, inner=inner, shared=shared)
    for tokens in (1, 2, 5, 16, 200):
        x_TD = _random(tokens, width, seed=9)
        ids_TK, weights_TK = choices(tokens, experts, top_k)
        out_TD = run(block.experts, block.shared, x_TD, ids_TK, weights_TK)
        assert_close(out_TD, expected(block, x_TD, ids_TK, weights_TK))


@pytest.mark.parametrize("number_format", FORMATS)
def test_all_tokens_to_one_expert(isa: str, number_format: str) -> None:
    block = layer(number_format, experts=3, width=96, inner=70)
    x_TD = _random(450, 96, seed=9)
    ids_TK, weights_TK = torch.full((450, 1), 1, dtype=torch.int32), _random(450, 1, seed=3)
    assert_close(run(block.experts, None, x_TD, ids_TK, weights_TK), expected(block, x_TD, ids_TK, weights_TK))


def test_results_are_added_and_rows_may_be_apart(isa: str) -> None:
    block = layer("bf16", experts=4, width=64, inner=48, shared=16)
    x_TD = _random(6, 80, seed=9)[:, :64]
    ids_TK, weights_TK = choices(6, 4, 2)
    before_TD = _random(6, 64, seed=8)
    out_TD = run(block.experts, block.shared, x_TD, ids_TK, weights_TK, added_to=before_TD)
    assert_close(out_TD, before_TD.double() + expected(block, x_TD, ids_TK, weights_TK))


@pytest.mark.parametrize("number_format", FORMATS)
def test_a_token_gets_the_same_result_in_every_batch_and_on_every_number_of_threads(
    isa: str, number_format: str
) -> None:
    block = layer(number_format, experts=6, width=160, inner=100, shared=50)
    x_TD = _random(300, 160, seed=9)
    ids_TK, weights_TK = choices(300, 6, 3)
    together_TD = run(block.experts, block.shared, x_TD, ids_TK, weights_TK)
    for rows in (slice(0, 1), slice(7, 8), slice(3, 19), slice(40, 260)):
        part = run(block.experts, block.shared, x_TD[rows], ids_TK[rows], weights_TK[rows])
        assert torch.equal(part, together_TD[rows])
    for threads in (1, 3):
        _native.start(isa, threads, [])
        assert torch.equal(run(block.experts, block.shared, x_TD, ids_TK, weights_TK), together_TD)


def test_the_order_of_a_tokens_experts_does_not_matter(isa: str) -> None:
    block = layer("fp8", experts=6, width=64, inner=64)
    x_TD = _random(4, 64, seed=9)
    ids_TK, weights_TK = choices(4, 6, 4)
    flipped = (ids_TK.flip(1).contiguous(), weights_TK.flip(1).contiguous())
    assert torch.equal(run(block.experts, None, x_TD, ids_TK, weights_TK), run(block.experts, None, x_TD, *flipped))


def test_ids_out_of_range_are_refused() -> None:
    _native.start("", 2, [])
    block = layer("bf16", experts=3, width=32, inner=32)
    for wrong in (-1, 3):
        with pytest.raises(ValueError, match=r"outside 0 \.\. 2"):
            run(
                block.experts,
                None,
                _random(1, 32, seed=0),
                torch.tensor([[0, wrong]], dtype=torch.int32),
                torch.ones(1, 2),
            )


def test_experts_of_different_shapes_are_refused() -> None:
    _native.start("", 2, [])
    a, b = (pack(_random(*shape, seed=0), "f32")[0] for shape in ((32, 40), (40, 32)))
    with pytest.raises(ValueError, match="gate and up of one shape"):
        _native.Expert(a, b, a)
    with pytest.raises(ValueError, match="same shape"):
        _native.Experts([_native.Expert(a, a, b), _native.Expert(b, b, a)])
    with pytest.raises(ValueError, match="at least one"):
        _native.Experts([])


V3 = MoeConfig(
    num_experts=32,
    experts_per_token=6,
    intermediate_size=8,
    shared_intermediate_size=0,
    scoring="sigmoid",
    correction_bias=True,
    num_groups=8,
    topk_groups=3,
    group_score="top2_sum",
    normalize_topk=True,
    routed_scaling_factor=2.5,
)
V2 = replace(V3, scoring="softmax", correction_bias=False, group_score="max", normalize_topk=False)
ROUTERS = {
    "v3": V3,
    "v2": V2,
    "v3 without groups": replace(V3, num_groups=1, topk_groups=1),
    "softmax, normalised": replace(V2, num_groups=1, topk_groups=1, normalize_topk=True, routed_scaling_factor=1.0),
    "odd": replace(V3, num_experts=7, experts_per_token=7, num_groups=1, topk_groups=1),
    "one of one": replace(V2, num_experts=1, experts_per_token=1, num_groups=1, topk_groups=1),
    "negative scores": replace(V3, num_experts=12, num_groups=4, topk_groups=2, experts_per_token=5),
}


def native_router(router: Router, number_format: str = "f32") -> tuple[_native.Router, tuple[object, ...]]:
    config = router.config
    gate, _ = pack(router.weight.detach(), number_format)
    bias = router.e_score_correction_bias if config.correction_bias else None
    made = _native.Router(
        gate,
        top_k=config.experts_per_token,
        groups=config.num_groups,
        topk_groups=config.topk_groups,
        sigmoid=config.scoring == "sigmoid",
        top2_sum=config.group_score == "top2_sum",
        normalize=config.normalize_topk,
        scaling=config.routed_scaling_factor,
        bias=0 if bias is None else bias.data_ptr(),
    )
    return made, (gate, bias)


def route(router: _native.Router, x_TD: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    ids_TK = torch.full((x_TD.shape[0], top_k), -1, dtype=torch.int32)
    weights_TK = torch.full((x_TD.shape[0], top_k), float("nan"))
    _native.route(router, x_TD.data_ptr(), x_TD.stride(0), x_TD.shape[0], ids_TK.data_ptr(), weights_TK.data_ptr())
    return ids_TK, weights_TK


@pytest.mark.parametrize("name", list(ROUTERS))
@torch.inference_mode()
def test_router_matches_the_model(isa: str, name: str) -> None:
    """All logits are exact and differ, so that no choice hangs on rounding."""
    config = ROUTERS[name]
    router = Router(config, 48)
    router.weight.copy_((_random(config.num_experts, 48, seed=1) * 4).round() / 16)
    router.weight[:, 0] = torch.arange(config.num_experts) / 1024
    if config.correction_bias:
        shift = -1.0 if name == "negative scores" else 0.0
        router.e_score_correction_bias.copy_(_random(config.num_experts, seed=2) * 0.1 + shift)
    native, _kept = native_router(router)
    x_TD = _random(100, 48, seed=3).round()
    x_TD[:, 0] = 1
    wanted_ids, wanted_weights, _ = router(x_TD)
    wanted_ids, order = wanted_ids.sort(dim=1)
    for rows in (slice(0, 1), slice(0, 100)):
        ids_TK, weights_TK = route(native, x_TD[rows], config.experts_per_token)
        assert torch.equal(ids_TK.long(), wanted_ids[rows])
        torch.testing.assert_close(weights_TK, wanted_weights.gather(1, order)[rows], rtol=3e-6, atol=1e-7)


@torch.inference_mode()
def test_router_breaks_ties_by_the_lower_id_and_survives_nan(isa: str) -> None:
    config = replace(V3, correction_bias=False)
    router = Router(config, 16)
    router.weight.zero_()
    native, _kept = native_router(router)
    ids_TK, weights_TK = route(native, torch.ones(1, 16), 6)
    assert ids_TK.tolist() == [[0, 1, 2, 3, 4, 5]]
    torch.testing.assert_close(weights_TK, torch.full((1, 6), 2.5 / 6))
    ids_TK, _ = route(native, torch.full((1, 16), float("nan")), 6)
    assert sorted(set(ids_TK[0].tolist())) == ids_TK[0].tolist()
    assert ids_TK.min() >= 0
    assert ids_TK.max() < 32


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"top_k": 0}, "between one and all of its experts"),
        ({"top_k": 9}, "between one and all of its experts"),
        ({"groups": 3}, "divide into the groups"),
        ({"groups": 2, "topk_groups": 3}, "between one and all of its groups"),
        ({"groups": 8, "top2_sum": True}, "need two in a group"),
    ],
)
def test_contradictory_routers_are_refused(change: dict[str, int], what: str) -> None:
    _native.start("", 2, [])
    gate, _ = pack(_random(8, 32, seed=0), "f32")
    fields = {"top_k": 2, "groups": 1, "topk_groups": 1, "sigmoid": True, "top2_sum": False, "normalize": True}
    with pytest.raises(ValueError, match=what):
        _native.Router(gate, **{**fields, "scaling": 1.0, "bias": 0, **change})
