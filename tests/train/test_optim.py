import itertools
from typing import Any

import pytest
import torch
from torch import nn

from deepground.errors import TrainingError
from deepground.train import OptimizerConfig, Schedule
from deepground.train.optim import Muon, build_optimizers, orthogonalize, set_step_sizes, split_parameters


@pytest.mark.parametrize("shape", [(16, 16), (24, 16), (16, 40)])
def test_singular_values_become_one(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(5, *shape, generator=generator)
    before = torch.linalg.svdvals(matrices) / matrices.norm(dim=(-2, -1), keepdim=True).squeeze(-1)
    after = torch.linalg.svdvals(orthogonalize(matrices))
    assert after[before > 2e-3].min() > 0.8
    assert after.max() < 1.2


def test_singular_vectors_stay() -> None:
    matrices = torch.randn(3, 12, 20, generator=torch.Generator().manual_seed(1))
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    torch.testing.assert_close(orthogonalize(matrices), u @ vh, atol=0.3, rtol=0)
    cosine = torch.cosine_similarity(orthogonalize(matrices).flatten(1), (u @ vh).flatten(1))
    assert cosine.min() > 0.98


@pytest.mark.parametrize("noise", [0.0, 1e-3, 1e-1])
def test_bfloat16_stays_bounded_where_one_direction_is_nearly_everything(noise: float) -> None:
    generator = torch.Generator().manual_seed(4)
    columns, rows = torch.randn(4, 64, 1, generator=generator), torch.randn(4, 1, 96, generator=generator)
    matrices = columns @ rows + noise * torch.randn(4, 64, 96, generator=generator)
    assert torch.linalg.svdvals(orthogonalize(matrices, bfloat16=True)).max() < 1.2


def test_bfloat16_gives_float32s_direction() -> None:
    matrices = torch.randn(4, 96, 64, generator=torch.Generator().manual_seed(5))
    rough, exact = orthogonalize(matrices, bfloat16=True), orthogonalize(matrices)
    assert rough.dtype == torch.float32
    assert torch.cosine_similarity(rough.flatten(1), exact.flatten(1)).min() > 0.98


def test_a_zero_gradient_gives_a_zero_update() -> None:
    assert orthogonalize(torch.zeros(2, 4, 6)).abs().max() == 0


def test_a_stack_is_stepped_like_its_matrices() -> None:
    generator = torch.Generator().manual_seed(2)
    values, gradients = torch.randn(2, 3, 8, 6, generator=generator)
    stack = nn.Parameter(values.clone())
    singles = [nn.Parameter(matrix.clone()) for matrix in values]
    stack.grad = gradients.clone()
    for single, gradient in zip(singles, gradients, strict=True):
        single.grad = gradient.clone()
    Muon([stack], lr=0.1).step()
    Muon(singles, lr=0.1).step()
    torch.testing.assert_close(stack.detach(), torch.stack([s.detach() for s in singles]))


@pytest.mark.parametrize("shape", [(64, 64), (128, 32), (32, 128)])
def test_updates_have_the_root_mean_square_of_adamw(shape: tuple[int, int]) -> None:
    parameter = nn.Parameter(torch.zeros(shape))
    parameter.grad = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    Muon([parameter], lr=1.0, weight_decay=0.0).step()
    assert 0.17 < parameter.detach().square().mean().sqrt() < 0.23


def test_parameters_without_gradient_stay() -> None:
    parameter = nn.Parameter(torch.ones(4, 4))
    Muon([parameter], lr=1.0).step()
    assert torch.equal(parameter.detach(), torch.ones(4, 4))


class Model(nn.Module):
    """Parameters with the decoder's names."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(8, 4)
        self.q_proj = nn.Linear(4, 4, bias=False)
        self.norm = nn.LayerNorm(4, bias=False)
        self.mlp = nn.ModuleDict({"gate": nn.Linear(4, 2, bias=False), "experts": nn.Linear(4, 4, bias=False)})
        self.lm_head = nn.Linear(4, 8, bias=False)


def test_each_parameter_has_its_optimizer() -> None:
    model = Model()
    groups = split_parameters(model)
    assert {id(p) for p in groups.matrices} == {id(model.q_proj.weight), id(model.mlp["experts"].weight)}
    assert [id(p) for p in groups.embeddings] == [id(model.embed_tokens.weight)]
    assert [id(p) for p in groups.heads] == [id(model.lm_head.weight)]
    assert {id(p) for p in groups.vectors} == {id(model.norm.weight), id(model.mlp["gate"].weight)}


@pytest.mark.parametrize(("muon", "kinds"), [(True, [Muon, torch.optim.AdamW]), (False, [torch.optim.AdamW])])
def test_every_parameter_is_stepped_once(muon: bool, kinds: list[type]) -> None:
    model = Model()
    optimizers = build_optimizers(model, OptimizerConfig(muon=muon))
    assert [type(o) for o in optimizers] == kinds
    stepped = [id(p) for o in optimizers for group in o.param_groups for p in group["params"]]
    assert sorted(stepped) == sorted(id(p) for p in model.parameters())


def test_a_model_without_parameters_is_refused() -> None:
    with pytest.raises(TrainingError, match="no parameter"):
        build_optimizers(nn.Identity(), OptimizerConfig())


def test_step_sizes_follow_the_schedule() -> None:
    optimizers = build_optimizers(
        Model(), OptimizerConfig(matrix_lr=0.5, embedding_lr=0.25, head_lr=1.0, vector_lr=0.125)
    )
    set_step_sizes(optimizers, 0.5)
    set_step_sizes(optimizers, 0.1)
    sizes = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    assert sizes == pytest.approx([0.05, 0.025, 0.1, 0.0125])


def test_schedule_warms_up_holds_and_decays() -> None:
    schedule = Schedule(total_steps=100, warmup_steps=10, decay_share=0.2)
    factors = [schedule.factor(step) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9:81] == [1.0] * 72
    assert factors[90] == pytest.approx(0.5)
    assert 0 < factors[99] <= 0.05
    assert schedule.factor(100) == 0
    assert all(later <= earlier for earlier, later in itertools.pairwise(factors[80:]))


def test_a_shorter_schedule_begins_its_decay_earlier() -> None:
    assert Schedule(total_steps=1000).factor(500) == 1.0
    assert Schedule(total_steps=600).factor(500) == pytest.approx(100 / 150)


@pytest.mark.parametrize("wrong", [{"total_steps": 0}, {"total_steps": 5, "decay_share": 0.0}])
def test_impossible_schedules_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match="must be|valid range"):
        Schedule(**wrong)
