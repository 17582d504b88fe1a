"""Muon for the matrices inside the blocks, AdamW for everything else, and the learning-rate schedule.

Legend: K matrices of one shape stacked; M, N rows and columns of a matrix.

Muon orthogonalises the momentum of each weight matrix, so that every direction of the update has the same
size (https://kellerjordan.github.io/posts/muon/). Stacked experts (E, M, N) are E matrices. All matrices of one
shape go through one batched product: with hundreds of small experts the calls would otherwise cost more than
the arithmetic. `torch.optim.Muon` takes 2-D parameters only, hence this one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from deepground.errors import TrainingError

# Each step's odd polynomial a x + b x^3 + c x^5, greedily optimal for singular values in [1e-3, 1] given the
# steps before it (Polar Express, arXiv 2505.16932). They work as a sequence of five, never as a shorter one.
POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
)


BFLOAT16_SAFETY = 1.02
"""Every polynomial but the last is applied to singular values divided by this: bfloat16's rounding would otherwise push
the largest one past the point from which they diverge."""


def orthogonalize(matrices_KMN: Tensor, *, bfloat16: bool = False) -> Tensor:
    """Matrices with the same singular vectors, and singular values of about 1.

    Args:
        matrices_KMN: float32 (K, M, N).
        bfloat16: compute the products in bfloat16, at half the cost where the hardware has it. Of the momentum of
            trained matrices, the result's cosine to float32's is above 0.99; what lies far below the largest
            singular value, 1e-3 and less, becomes noise.

    Returns:
        float32 (K, M, N); singular values that were at least 1e-3 of the matrix's Frobenius norm are now from
        0.85 to 1.15.
    """
    tall = matrices_KMN.shape[-2] > matrices_KMN.shape[-1]
    x_KMN = matrices_KMN.mT if tall else matrices_KMN
    norm_K11 = x_KMN.norm(dim=(-2, -1), keepdim=True)
    x_KMN = x_KMN / (norm_K11 * 1.01 + 1e-7)
    x_KMN = _polar_bfloat16(x_KMN.bfloat16()) if bfloat16 else _polar(x_KMN)
    return x_KMN.mT if tall else x_KMN


def _polar(x_KMN: Tensor) -> Tensor:
    for a, b, c in POLAR_EXPRESS:
        # a x + (b g + c g g) x as (a I + g (b I + c g)) x: on the diagonal, a and b cost no pass over a stack.
        gram_KMM = torch.bmm(x_KMN, x_KMN.mT)
        inner_KMM = gram_KMM * c
        inner_KMM.diagonal(dim1=-2, dim2=-1).add_(b)
        poly_KMM = torch.bmm(gram_KMM, inner_KMM)
        poly_KMM.diagonal(dim1=-2, dim2=-1).add_(a)
        x_KMN = torch.bmm(poly_KMM, x_KMN)
    return x_KMN


def _polar_bfloat16(x_KMN: Tensor) -> Tensor:
    """The same in an order that rounds less: a stands far from the rest of the diagonal."""
    for step, (a, b, c) in enumerate(POLAR_EXPRESS):
        safety = 1.0 if step == len(POLAR_EXPRESS) - 1 else BFLOAT16_SAFETY
        gram_KMM = torch.bmm(x_KMN, x_KMN.mT)
        poly_KMM = torch.baddbmm(gram_KMM, gram_KMM, gram_KMM, beta=b / safety**3, alpha=c / safety**5)
        x_KMN = torch.baddbmm(x_KMN, poly_KMM, x_KMN, beta=a / safety)
    return x_KMN.float()


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, scaled so that AdamW's learning rates and weight decay fit.

    The update's root mean square is 0.2 per element whatever the shape (arXiv 2502.16982, section 2.2).

    Args:
        params: matrices (M, N) or stacks (E, M, N).
        lr: step size, in AdamW's terms.
        momentum: decay of the gradient average; Nesterov's form is used.
        weight_decay: share of the weight removed per step, times lr.
        bfloat16: see `orthogonalize`.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
        bfloat16: bool = False,
    ) -> None:
        super().__init__(list(params), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._bfloat16 = bfloat16

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            stacks: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
            for param in group["params"]:
                if param.grad is not None:
                    stacks[tuple(param.shape[-2:])].append(param)
            for params in stacks.values():
                self._step_stack(params, group)

    def _step_stack(self, params: list[nn.Parameter], group: dict[str, float]) -> None:
        directions: list[Tensor] = []
        for param in params:
            assert param.grad is not None
            state = self.state[param]
            if not state:
                state["momentum"] = torch.zeros_like(param)
            state["momentum"].lerp_(param.grad, 1 - group["momentum"])
            direction = param.grad.lerp(state["momentum"], group["momentum"])
            directions.append(_whole(direction).reshape(-1, *param.shape[-2:]))
        update_KMN = orthogonalize(torch.cat(directions), bfloat16=self._bfloat16)
        scale = 0.2 * max(update_KMN.shape[-2:]) ** 0.5
        pieces = torch.split(update_KMN, [d.shape[0] for d in directions])
        for param, piece in zip(params, pieces, strict=True):
            param.mul_(1 - group["lr"] * group["weight_decay"])
            param.add_(_as_sharded(piece.reshape(param.shape), param), alpha=-group["lr"] * scale)


def _whole(tensor: Tensor) -> Tensor:
    """A matrix whose rows lie on several workers, gathered, since orthogonalising needs all of it. Each computes it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _as_sharded(update: Tensor, param: Tensor) -> Tensor:
    if not isinstance(param, DTensor):
        return update
    return distribute_tensor(update, param.device_mesh, param.placements, src_data_rank=None)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Step sizes; all of them are multiplied by the schedule."""

    matrix_lr: float = 6e-3
    """Of the matrices inside the blocks."""
    embedding_lr: float = 3e-2
    """Of the embedding, whose entries are of size 1 (see `initialize`)."""
    head_lr: float = 6e-3
    """Of the output head."""
    vector_lr: float = 3e-3
    """Of norms, biases and routers."""
    weight_decay: float = 0.2
    """Of the matrices; nothing else decays. It bounds what a block adds to the residual stream."""
    muon: bool = True
    """Train the matrices inside the blocks with Muon; otherwise with AdamW, like the rest."""
    muon_bfloat16: bool = False
    """Orthogonalise in bfloat16; see `orthogonalize`."""
    gradient_clip: float = 1.0
    """Largest norm of the whole gradient."""


def build_optimizers(decoder: nn.Module, config: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """The optimizers of one model: Muon, if it is wanted, then AdamW. Each group keeps its step size in `base_lr`.

    Raises:
        TrainingError: the model has no trainable parameters.
    """
    groups = split_parameters(decoder)
    matrices = groups.matrices
    if not any((matrices, groups.embeddings, groups.heads, groups.vectors)):
        raise TrainingError("the model has no parameter that requires a gradient")
    adamw_groups = [
        {"params": groups.embeddings, "lr": config.embedding_lr, "weight_decay": 0.0},
        {"params": groups.heads, "lr": config.head_lr, "weight_decay": 0.0},
        {"params": groups.vectors, "lr": config.vector_lr, "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = []
    if config.muon:
        optimizers.append(
            Muon(matrices, lr=config.matrix_lr, weight_decay=config.weight_decay, bfloat16=config.muon_bfloat16)
        )
    else:
        adamw_groups.append({"params": matrices, "lr": config.matrix_lr, "weight_decay": config.weight_decay})
    adamw_groups = [group for group in adamw_groups if group["params"]]
    optimizers.append(torch.optim.AdamW(adamw_groups, betas=(0.9, 0.95), eps=1e-10, fused=True))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return optimizers


@dataclass(frozen=True)
class ParameterGroups:
    """The trainable parameters, by how they are trained."""

    matrices: list[nn.Parameter]
    """Inside the blocks."""
    embeddings: list[nn.Parameter]
    heads: list[nn.Parameter]
    vectors: list[nn.Parameter]
    """Norms, biases and routers."""


def split_parameters(decoder: nn.Module) -> ParameterGroups:
    """Sort the trainable parameters by their names."""
    groups = ParameterGroups([], [], [], [])
    for name, param in decoder.named_parameters():
        if not param.requires_grad:
            continue
        if "embed_tokens" in name:
            groups.embeddings.append(param)
        elif "lm_head" in name:
            groups.heads.append(param)
        elif param.ndim < 2 or name.endswith("mlp.gate.weight"):
            groups.vectors.append(param)
        else:
            groups.matrices.append(param)
    return groups


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Warm-up, stable, decay (arXiv 2404.06395): a function of the step alone, so that a resume repeats it."""

    total_steps: int
    warmup_steps: int = 50
    decay_share: float = 0.25
    """Last part of the run over which the step size falls linearly to zero. Range above 0 to 1."""

    def __post_init__(self) -> None:
        if self.total_steps < 1:
            raise TrainingError(f"total_steps is {self.total_steps}; it must be at least 1")
        if not 0 < self.decay_share <= 1:
            raise TrainingError(f"decay_share is {self.decay_share}; the valid range is above 0 to 1")

    def factor(self, step: int) -> float:
        """What the step sizes are multiplied by at `step`, counted from 0."""
        warmup = min(1.0, (step + 1) / max(1, self.warmup_steps))
        decay_steps = max(1.0, self.total_steps * self.decay_share)
        decay = min(1.0, (self.total_steps - step) / decay_steps)
        return max(0.0, min(warmup, decay))


def set_step_sizes(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Multiply every group's own step size by `factor`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
