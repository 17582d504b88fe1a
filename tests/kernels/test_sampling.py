"""Native draws beside the sampler's torch twin, worked cases by hand, and statistics.

Legend: N rows, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from deepground.engine.request import Request
from deepground.engine.sampler import Sampler
from deepground.kernels import DrawOrder, draw_tokens, native_available, start_native, supported_isas
from deepground.messages import SamplingParams

pytestmark = pytest.mark.skipif(not native_available(), reason="the native kernels are not built")
FILTERS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.3},
    {"top_k": 1},
    {"top_k": 20, "temperature": 1.7},
    {"top_p": 0.95, "temperature": 0.6},
    {"top_p": 0.999, "temperature": 2.0},
    {"min_p": 0.05},
    {"top_k": 50, "top_p": 0.9, "min_p": 0.02, "temperature": 0.8},
    {"top_p": 0.01},
]


@pytest.fixture(autouse=True, scope="module", params=[isa for isa in supported_isas() if isa != "generic"][-2:])
def _started(request: pytest.FixtureRequest) -> Any:
    start_native(2, isa=request.param)
    yield
    start_native(2)


def _request(seed: int, params: dict[str, Any]) -> Request:
    wanted = SamplingParams(**params)
    return Request(id=str(seed), prompt_length=1, token_ids=[0], params=wanted, max_tokens=9, seed=seed, arrival=seed)


def _order(**fields: Any) -> DrawOrder:
    return DrawOrder(**({"row": 0, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "number": 0.0} | fields))


@pytest.mark.parametrize("vocab", [1, 5, 63, 64, 65, 1000, 4099, 70_001])
def test_as_the_torch_twin(vocab: int) -> None:
    """The same tokens, but for draws that fall on the edge of two where sums are rounded in another way."""
    rows = 40
    logits_NV = 3 * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(vocab))
    differing = 0
    for number, params in enumerate(FILTERS):
        requests = [_request(1000 * number + n, params) for n in range(rows)]
        ours, twin = (
            [one.tokens[0].token_id for one in sampler.sample(logits_NV.clone(), requests)]
            for sampler in (Sampler(native=True), Sampler())
        )
        differing += sum(a != b for a, b in zip(ours, twin, strict=True))
    assert differing <= 1


def test_numbers_run_through_the_distribution() -> None:
    logits_NV = torch.tensor([[0.2, 0.5, 0.3, 0.0]]).log()
    numbers = [0.0, 0.19, 0.21, 0.69, 0.71, 1 - 2**-40]
    assert draw_tokens(logits_NV, [_order(number=n) for n in numbers]) == [0, 0, 1, 1, 2, 2]
    likeliest_first = [_order(number=n, top_p=0.999999) for n in (0.0, 0.49, 0.51, 0.79, 0.81, 1 - 2**-40)]
    assert draw_tokens(logits_NV, likeliest_first) == [1, 1, 2, 2, 0, 0]


def test_filters_by_hand() -> None:
    logits_NV = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()
    last = 1 - 2**-40
    assert draw_tokens(logits_NV, [_order(number=last, top_k=k) for k in (1, 2, 3, 4)]) == [1, 3, 2, 3]
    # A token stays while those before it fall short of p.
    assert draw_tokens(logits_NV, [_order(number=last, top_p=p) for p in (0.39, 0.41, 0.69, 0.71, 0.91)]) == [
        1,
        3,
        3,
        2,
        0,
    ]
    assert draw_tokens(logits_NV, [_order(number=last, top_k=4, min_p=p) for p in (0.76, 0.74, 0.51, 0.24)]) == [
        1,
        3,
        3,
        3,
    ]
    assert draw_tokens(logits_NV, [_order(number=0.0, min_p=p) for p in (0.26, 0.24)]) == [1, 0]


def test_impossible_tokens_are_never_drawn() -> None:
    logits_NV = torch.full((1, 300), -math.inf)
    logits_NV[0, [7, 130, 299]] = torch.tensor([-1e30, -1e30, -1e30])
    for fields in ({}, {"top_k": 200}, {"top_p": 0.999}, {"min_p": 0.5}, {"temperature": 1e-9}):
        orders = [_order(number=n / 50, **fields) for n in range(50)]
        assert set(draw_tokens(logits_NV, orders)) == {7, 130, 299}, fields


def test_equal_logits_in_the_order_of_their_ids() -> None:
    assert draw_tokens(torch.zeros(1, 500), [_order(number=n, top_k=10) for n in (0.05, 0.55, 0.95)]) == [0, 5, 9]
    assert draw_tokens(torch.zeros(1, 500), [_order(number=n) for n in (0.001, 0.5001, 0.999)]) == [0, 250, 499]


@pytest.mark.parametrize("params", [{}, {"top_p": 0.9}, {"top_k": 30}, {"min_p": 0.1}], ids=str)
def test_frequencies(params: dict[str, Any]) -> None:
    """Of 20,000 draws no token strays by more than five standard deviations from what the filters' definition gives."""
    logits_NV = 2 * torch.randn(1, 200, generator=torch.Generator().manual_seed(3))
    probs_V = logits_NV[0].double().softmax(-1)
    sorted_V, ids = probs_V.sort(descending=True)
    kept_V = torch.ones(200, dtype=torch.bool)
    if "top_p" in params:
        kept_V[1:] &= sorted_V.cumsum(0)[:-1] < params["top_p"]
    kept_V[params.get("top_k", 200) :] = False
    kept_V &= sorted_V >= params.get("min_p", 0.0) * sorted_V[0]
    expected_V = torch.zeros(200, dtype=torch.double).scatter(0, ids, sorted_V * kept_V)
    expected_V /= expected_V.sum()
    count = 20_000
    generator = torch.Generator().manual_seed(5)
    numbers: Tensor = torch.rand(count, dtype=torch.double, generator=generator)
    drawn = draw_tokens(logits_NV, [_order(number=n, **params) for n in numbers.tolist()])
    share_V = torch.bincount(torch.tensor(drawn), minlength=200).double() / count
    deviation_V = (expected_V * (1 - expected_V) / count).sqrt()
    assert bool(((share_V - expected_V).abs() <= 5 * deviation_V + 1e-9).all())
