import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deepground.model import Decoder
from deepground.model.moe import Moe
from deepground.train import Sample, pack_rows
from deepground.train.loss import IGNORED, ExpertBalancer, masked_cross_entropy
from training_samples import CONFIG, tiny_decoder

SAMPLES = [[Sample([5, 6, 7, 8, 9], 2), Sample([10, 11, 12], 1)], [Sample([3, 4, 5, 6], 3)]]


def test_loss_is_the_mean_over_trained_tokens() -> None:
    decoder = tiny_decoder()
    batch = pack_rows(SAMPLES, 10, pad_id=2)
    logits_TV = decoder.logits(decoder(batch.rows))
    expected = F.cross_entropy(logits_TV, batch.targets_T, ignore_index=IGNORED, reduction="sum")
    torch.testing.assert_close(masked_cross_entropy(decoder, batch.rows, batch.targets_T), expected)
    assert batch.num_trained == 6


class WatchedDecoder(Decoder):
    """Remembers how many rows each call of the output head had."""

    def __init__(self) -> None:
        super().__init__(CONFIG)
        self.rows_seen: list[int] = []

    def logits(self, hidden_ND: Tensor) -> Tensor:
        self.rows_seen.append(hidden_ND.shape[0])
        return super().logits(hidden_ND)


def test_the_head_sees_trained_rows_only() -> None:
    decoder = WatchedDecoder()
    decoder.init_weights(0)
    batch = pack_rows([[Sample([5, 6, 7, 8, 9], 3)]], 6, pad_id=2)
    masked_cross_entropy(decoder, batch.rows, batch.targets_T)
    assert decoder.rows_seen == [2]


def test_no_trained_token_gives_zero() -> None:
    decoder = tiny_decoder()
    batch = pack_rows([[]], 6, pad_id=2)
    assert masked_cross_entropy(decoder, batch.rows, batch.targets_T) == 0


def moes(decoder: Decoder) -> list[Moe]:
    return [module for module in decoder.modules() if isinstance(module, Moe)]


def test_bias_moves_against_the_load() -> None:
    decoder = tiny_decoder()
    (moe,) = moes(decoder)
    balancer = ExpertBalancer(decoder, 0.01)
    moe.last_expert_counts_E = torch.tensor([10, 0, 4, 6])
    balancer.observe()
    moe.last_expert_counts_E = torch.tensor([2, 2, 4, 12])
    balancer.observe()
    load = balancer.apply()
    torch.testing.assert_close(moe.gate.e_score_correction_bias, torch.tensor([-0.01, 0.01, 0.01, -0.01]))
    assert load.worst_share == pytest.approx(18 / 10)
    assert load.idle_experts == 0
    moe.last_expert_counts_E = torch.tensor([8, 0, 0, 0])
    balancer.observe()
    assert balancer.apply(0.5).idle_experts == 3
    torch.testing.assert_close(moe.gate.e_score_correction_bias, torch.tensor([-0.015, 0.015, 0.015, -0.005]))


def test_balancing_evens_out_a_skewed_router() -> None:
    decoder = tiny_decoder().train()
    (moe,) = moes(decoder)
    with torch.no_grad():
        moe.gate.weight *= 20
    moe.gate.e_score_correction_bias += torch.tensor([1.5, 0.0, 0.0, -1.5])
    balancer = ExpertBalancer(decoder, 0.05)
    rows = [[Sample([3 + (7 * r + i) % 290 for i in range(30)], 1)] for r in range(8)]
    batch = pack_rows(rows, 32, pad_id=2)
    shares = []
    for _ in range(60):
        with torch.no_grad():
            decoder(batch.rows)
        balancer.observe()
        shares.append(balancer.apply().worst_share)
    assert shares[0] > 1.8
    assert min(shares[-10:]) < 1.3


def test_models_without_routers_have_no_load() -> None:
    assert ExpertBalancer(torch.nn.Linear(2, 2), 0.1).apply() is None
