from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from deepground.model.config import MoeConfig
from deepground.model.moe import Moe, Router
from tiny_configs import MOE


def _router(
    config: MoeConfig, logits_TE: list[list[float]], bias_E: list[float] | None = None
) -> tuple[Router, Tensor]:
    """A router whose logits are those given: tokens are one-hot rows of its weight's columns."""
    logits = torch.tensor(logits_TE)
    router = Router(config, hidden_size=logits.shape[0])
    with torch.no_grad():
        router.weight.copy_(logits.t())
        if bias_E is not None:
            router.e_score_correction_bias.copy_(torch.tensor(bias_E))
    return router, torch.eye(logits.shape[0])


def _chosen(ids_TK: Tensor) -> list[set[int]]:
    return [set(row) for row in ids_TK.tolist()]


def _moe(config: MoeConfig, hidden: int = 8) -> Moe:
    moe = Moe(config, hidden)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in moe.parameters():
            parameter.normal_(0.0, 0.5, generator=generator)
    return moe


def test_bias_moves_the_choice_but_not_the_weights() -> None:
    config = replace(MOE, normalize_topk=False)
    router, x_TD = _router(config, [[2.0, 1.0, 0.0, -1.0]], [0.0, 0.0, 0.0, 9.0])
    ids_TK, weights_TK, scores_TE = router(x_TD)
    assert _chosen(ids_TK) == [{0, 3}]
    torch.testing.assert_close(weights_TK, scores_TE.gather(1, ids_TK))
    torch.testing.assert_close(scores_TE, torch.tensor([[2.0, 1.0, 0.0, -1.0]]).sigmoid())


def test_weights_are_normalised_then_scaled() -> None:
    router, x_TD = _router(replace(MOE, routed_scaling_factor=2.5), [[0.3, -0.4, 1.2, 0.1], [5.0, -6.0, 0.0, 1.0]])
    _, weights_TK, _ = router(x_TD)
    torch.testing.assert_close(weights_TK.sum(-1), torch.tensor([2.5, 2.5]))


def test_softmax_scores() -> None:
    config = replace(MOE, scoring="softmax", correction_bias=False, normalize_topk=False)
    router, x_TD = _router(config, [[0.0, 3.0, 1.0, 2.0]])
    ids_TK, weights_TK, _ = router(x_TD)
    assert _chosen(ids_TK) == [{1, 3}]
    softmax = torch.tensor([0.0, 3.0, 1.0, 2.0]).softmax(0)
    torch.testing.assert_close(weights_TK, softmax[ids_TK])


@pytest.mark.parametrize(("group_score", "group"), [("top2_sum", {2, 3}), ("max", {0, 1})])
def test_choice_stays_within_the_best_group(group_score: str, group: set[int]) -> None:
    """The strongest expert stands in the first group, the strongest pair in the second."""
    config = replace(MOE, num_groups=2, topk_groups=1, group_score=group_score)  # type: ignore[arg-type]
    router, x_TD = _router(config, [[1.0, -3.0, 0.8, 0.7]])
    assert _chosen(router(x_TD)[0]) == [group]


def test_experts_outside_the_chosen_groups_lose_even_against_negative_scores() -> None:
    """-inf, not 0.0: biased scores in the best group are negative here, and are still chosen."""
    config = replace(MOE, num_groups=2, topk_groups=1)
    router, x_TD = _router(config, [[0.0, 0.0, 0.0, 0.0]], [-2.0, -2.0, -3.0, -3.0])
    assert _chosen(router(x_TD)[0]) == [{0, 1}]


def test_router_computes_in_float32() -> None:
    router, x_TD = _router(MOE, [[1.0, 0.5, 0.25, 0.125]])
    _, weights_TK, scores_TE = router.to(torch.bfloat16)(x_TD.to(torch.bfloat16))
    assert weights_TK.dtype == scores_TE.dtype == torch.float32


def test_router_computes_in_float32_under_autocast() -> None:
    router, x_TD = _router(MOE, [[0.1, 0.2, 0.3, 0.4]])
    plain = router(x_TD)[2]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(router(x_TD)[2], plain)


def test_shared_experts_are_added() -> None:
    moe = _moe(MOE)
    x_TD = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    routed = Moe(replace(MOE, shared_intermediate_size=0), 8)
    routed.load_state_dict({k: v for k, v in moe.state_dict().items() if "shared" not in k})
    torch.testing.assert_close(moe(x_TD), routed(x_TD) + moe.shared_experts(x_TD))


def test_counts_are_kept_in_training_only() -> None:
    moe = _moe(MOE)
    x_TD = torch.randn(7, 8, generator=torch.Generator().manual_seed(1))
    moe.eval()(x_TD)
    assert moe.last_expert_counts_E is None
    moe.train()(x_TD)
    assert moe.last_expert_counts_E is not None
    assert int(moe.last_expert_counts_E.sum()) == 7 * MOE.experts_per_token
    assert not moe.last_expert_counts_E.requires_grad
    assert moe.last_scores_TE is not None
    assert moe.last_scores_TE.requires_grad


def test_gradients_reach_every_parameter() -> None:
    moe = _moe(MOE)
    moe(torch.randn(40, 8, generator=torch.Generator().manual_seed(1))).square().sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in moe.parameters())
