"""Native attention beside plain torch in float64, and bit for bit beside itself.

Legend: T rows of a call, L new tokens of a span, C tokens of its sequence so far, S cache slots, H query heads,
G key/value heads, W head width, V value width, R latent width, P rotary width, N nope width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

native: Any = pytest.importorskip("deepground.kernels._native", reason="the native kernels are not built")

NUM_SLOTS = 1536
LENGTHS = {0: (1, 2, 3, 64, 200), 1: (1, 5), 63: (1, 2, 7), 64: (1, 6), 65: (1, 4, 64), 1000: (1, 3, 24)}
"""By context: lengths of the new part."""
ISAS = tuple(isa for isa in native.supported() if "emulated" not in isa)

Span = tuple[int, int, int, Tensor]
"""Start, length, context, slots."""


@pytest.fixture(autouse=True, scope="module")
def _restore_isa() -> Iterator[None]:
    yield
    native.start("", 2, [])


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _slots(count: int, seed: int = 0) -> Tensor:
    """Scattered, as pages are after some hours."""
    return torch.randperm(NUM_SLOTS, generator=torch.Generator().manual_seed(seed))[:count]


def _flat(spans: Sequence[Span]) -> list[int]:
    return [number for start, length, context, slots in spans for number in (start, length, context, slots.data_ptr())]


def _attend(q_LHW: Tensor, k_CHW: Tensor, v_CHV: Tensor, scale: float) -> Tensor:
    """Causal attention in float64; the last L of C tokens ask."""
    num_queries, num_keys = q_LHW.shape[0], k_CHW.shape[0]
    scores_HLC = torch.einsum("lhw,chw->hlc", q_LHW.double(), k_CHW.double()) * scale
    hidden_LC = torch.arange(num_keys) > torch.arange(num_queries)[:, None] + num_keys - num_queries
    weights_HLC = scores_HLC.masked_fill(hidden_LC, -math.inf).softmax(-1)
    return torch.einsum("hlc,chv->lhv", weights_HLC, v_CHV.double())


class Gqa:
    """A layer's cache and the calls on it."""

    def __init__(self, heads: int, kv_heads: int, width: int, value_width: int, dtype: torch.dtype) -> None:
        self.heads, self.kv_heads, self.width, self.value_width = heads, kv_heads, width, value_width
        self.scale = width**-0.5
        self.keys_SK = _random(NUM_SLOTS, kv_heads * width, seed=1).to(dtype)
        self.values_SK = _random(NUM_SLOTS, kv_heads * value_width, seed=2).to(dtype)

    def queries(self, rows: int) -> Tensor:
        return _random(rows, self.heads * self.width, seed=3)

    def run(self, spans: Sequence[Span], q_TQ: Tensor) -> Tensor:
        out_TO = torch.full((q_TQ.shape[0], self.heads * self.value_width), math.nan)
        native.gqa_attention(
            _flat(spans), q_TQ.data_ptr(), q_TQ.stride(0), self.keys_SK.data_ptr(), self.values_SK.data_ptr(),
            self.keys_SK.dtype == torch.bfloat16, self.heads, self.kv_heads, self.width, self.value_width, self.scale,
            out_TO.data_ptr(), out_TO.stride(0),
        )  # fmt: skip
        return out_TO

    def expected(self, span: Span, q_TQ: Tensor) -> Tensor:
        start, length, _, slots = span
        shared = self.heads // self.kv_heads
        k_CHW = self.keys_SK[slots].view(-1, self.kv_heads, self.width).repeat_interleave(shared, 1)
        v_CHV = self.values_SK[slots].view(-1, self.kv_heads, self.value_width).repeat_interleave(shared, 1)
        return _attend(q_TQ[start : start + length].view(length, self.heads, -1), k_CHW, v_CHV, self.scale).flatten(1)


class Mla:
    """The same for latents; weights packed for the instruction set in use."""

    def __init__(
        self, heads: int, widths: tuple[int, int, int, int], dtype: torch.dtype, weights: str = "bf16"
    ) -> None:
        self.heads, (self.nope, self.rope, self.value_width, self.latent) = heads, widths
        self.scale = (self.nope + self.rope) ** -0.5
        self.latents_SK = _random(NUM_SLOTS, self.latent + self.rope, seed=4).to(dtype)
        key_HRN = (_random(heads, self.latent, self.nope, seed=5) * self.nope**-0.5).bfloat16()
        value_HVR = (_random(heads, self.value_width, self.latent, seed=6) * self.latent**-0.5).bfloat16()
        self.key_HRN, self.value_HVR = key_HRN.double(), value_HVR.double()
        self.matrices = [self._pack(head, weights) for head in (*key_HRN, *value_HVR)]
        self.weights = native.MlaWeights(self.nope, self.rope, self.matrices[:heads], self.matrices[heads:])

    def _pack(self, weight_OI: Tensor, format_: str) -> Any:
        codes_OI = weight_OI.float() if format_ == "f32" else weight_OI
        matrix = native.Matrix(format_, *codes_OI.shape)
        matrix.pack(codes_OI.contiguous().data_ptr(), codes_OI.shape[1], 0, 0, 0)
        return matrix

    def queries(self, rows: int) -> Tensor:
        return _random(rows, self.heads * (self.nope + self.rope), seed=3)

    def run(self, spans: Sequence[Span], q_TQ: Tensor) -> Tensor:
        out_TO = torch.full((q_TQ.shape[0], self.heads * self.value_width), math.nan)
        native.mla_attention(
            _flat(spans), self.weights, q_TQ.data_ptr(), q_TQ.stride(0), self.latents_SK.data_ptr(),
            self.latents_SK.dtype == torch.bfloat16, self.scale, out_TO.data_ptr(), out_TO.stride(0),
        )  # fmt: skip
        return out_TO

    def expected(self, span: Span, q_TQ: Tensor) -> Tensor:
        """Decompressed: keys and values of every head."""
        start, length, _, slots = span
        latent_CR, rope_CP = self.latents_SK[slots].double().split((self.latent, self.rope), dim=1)
        rope_CHP = rope_CP[:, None].expand(-1, self.heads, -1)
        k_CHW = torch.cat((torch.einsum("cr,hrn->chn", latent_CR, self.key_HRN), rope_CHP), dim=-1)
        v_CHV = torch.einsum("cr,hvr->chv", latent_CR, self.value_HVR)
        return _attend(q_TQ[start : start + length].view(length, self.heads, -1), k_CHW, v_CHV, self.scale).flatten(1)


Layer = Gqa | Mla

GQA_SHAPES = [(12, 2, 128, 128), (3, 3, 64, 64), (4, 1, 20, 72), (6, 2, 72, 20), (1, 1, 1, 1)]
MLA_SHAPES = [(2, (128, 64, 128, 512)), (3, (20, 8, 24, 72)), (16, (32, 16, 20, 64))]
DTYPES = [torch.bfloat16, torch.float32]


def _layer(shape: tuple[int, Any] | tuple[int, int, int, int], dtype: torch.dtype) -> Layer:
    return Gqa(*shape, dtype) if len(shape) == 4 else Mla(*shape, dtype)


def _close(out: Tensor, wanted: Tensor, tolerance: float = 2e-5) -> None:
    """Float32 rounding of sums over up to 1200 keys; some sets round what MLA's maps multiply to bfloat16."""
    if native.isa().startswith(("avx512_bf16", "amx")):
        tolerance = max(tolerance, 2e-2)
    torch.testing.assert_close(out.double(), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*GQA_SHAPES, *MLA_SHAPES])
def test_every_length_after_every_context(shape: Any, dtype: torch.dtype, isa: str) -> None:
    """Values are right, and the last token's are those that it would have got alone."""
    native.start(isa, 2, [])
    layer = _layer(shape, dtype)
    cases = [(context, length) for context, lengths in LENGTHS.items() for length in lengths]
    for index, (context, length) in enumerate(cases):
        span = (0, length, context, _slots(context + length, seed=index))
        q_TQ = layer.queries(length)
        out_TO = layer.run([span], q_TQ)
        _close(out_TO, layer.expected(span, q_TQ))
        alone_1O = layer.run([(0, 1, context + length - 1, span[3])], q_TQ[-1:])
        assert torch.equal(alone_1O[0], out_TO[-1]), (context, length)


def _mixed_spans() -> list[Span]:
    spans, start = [], 0
    for index, (length, context) in enumerate([(1, 700), (37, 0), (1, 0), (4, 513), (100, 470), (1, 64), (2, 1100)]):
        spans.append((start, length, context, _slots(context + length, seed=index)))
        start += length
    return spans


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", [GQA_SHAPES[0], GQA_SHAPES[3], MLA_SHAPES[1], MLA_SHAPES[2]])
def test_batches_threads_and_chunks_change_no_bit(shape: Any, isa: str) -> None:
    spans = _mixed_spans()
    results = []
    for threads in (1, 2, 3):
        native.start(isa, threads, [])
        layer = _layer(shape, torch.bfloat16)
        q_TQ = layer.queries(sum(length for _, length, _, _ in spans))
        results.append(layer.run(spans, q_TQ))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    for start, length, context, slots in spans:
        own_TQ, wanted_TO = q_TQ[start : start + length], results[0][start : start + length]
        _close(wanted_TO, layer.expected((0, length, context, slots), own_TQ))
        assert torch.equal(layer.run([(0, length, context, slots)], own_TQ), wanted_TO)
        half = length // 2
        if half:
            first_TO = layer.run([(0, half, context, slots)], own_TQ[:half])
            rest_TO = layer.run([(0, length - half, context + half, slots)], own_TQ[half:])
            assert torch.equal(torch.cat((first_TO, rest_TO)), wanted_TO)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_huge_and_tiny_scores(dtype: torch.dtype, isa: str) -> None:
    """Scores beyond e's range pick one key (or two that float32 can hardly tell apart); equal ones average; subnormal
    queries are nothing special."""
    native.start(isa, 2, [])
    layer = Gqa(2, 1, 32, 32, dtype)
    span = (0, 70, 600, _slots(670))
    q_TQ = layer.queries(70)
    for factor, tolerance in ((3e4, 2e-2), (0.0, 2e-5), (1e-38, 2e-5)):
        _close(layer.run([span], q_TQ * factor), layer.expected(span, q_TQ * factor), tolerance)
    layer.keys_SK.zero_()
    layer.values_SK.fill_(2.5)
    assert layer.run([span], q_TQ).sub(2.5).abs().max() < 1e-5


@pytest.mark.parametrize("isa", ISAS)
def test_nan_reaches_the_tokens_that_see_it_and_no_other_sequence(isa: str) -> None:
    native.start(isa, 2, [])
    layer = Gqa(2, 1, 32, 32, torch.float32)
    slots = _slots(900)
    layer.keys_SK[slots[450]] = math.nan
    spans = [(0, 1, 449, slots[:450]), (1, 1, 450, slots[:451]), (2, 1, 799, slots[:800]), (3, 5, 90, slots[800:895])]
    nan_T = layer.run(spans, layer.queries(8)).isnan().all(1)
    assert nan_T.tolist() == [False, True, True] + [False] * 5


@pytest.mark.parametrize("isa", ISAS)
def test_strides_and_untouched_rows(isa: str) -> None:
    """Rows that no span covers, and columns beside the output, stay as they are."""
    native.start(isa, 2, [])
    layer = Gqa(4, 2, 20, 20, torch.bfloat16)
    wide_q, wide_out = _random(9, 100, seed=3), torch.full((9, 90), 7.0)
    spans = [(1, 2, 10, _slots(12)), (5, 1, 30, _slots(31, seed=1))]
    native.gqa_attention(
        _flat(spans), wide_q.data_ptr(), 100, layer.keys_SK.data_ptr(), layer.values_SK.data_ptr(), True, 4, 2, 20, 20,
        layer.scale, wide_out.data_ptr(), 90,
    )  # fmt: skip
    wanted = torch.full((9, 90), 7.0, dtype=torch.float64)
    for span in spans:
        wanted[span[0] : span[0] + span[1], :80] = layer.expected(span, wide_q[:, :80].contiguous())
    _close(wide_out, wanted)
    assert bool((wide_out[:, 80:] == 7).all())
    assert bool((wide_out[[0, 3, 4, 6, 7, 8]] == 7).all())


def test_mla_weights_must_fit_together() -> None:
    native.start("", 2, [])
    key_up, value_up = native.Matrix("bf16", 64, 32), native.Matrix("bf16", 20, 64)
    with pytest.raises(ValueError, match="one key_up and one value_up"):
        native.MlaWeights(32, 16, [key_up, key_up], [value_up])
    with pytest.raises(ValueError, match="key_up must be"):
        native.MlaWeights(48, 16, [key_up], [value_up])
    with pytest.raises(ValueError, match="value_up must be"):
        native.MlaWeights(32, 16, [key_up] * 2, [value_up, native.Matrix("bf16", 20, 32)])
