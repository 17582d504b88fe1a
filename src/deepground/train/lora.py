"""Low-rank adapters (arXiv 2106.09685): small matrices beside frozen ones, and their way back into the weights.

Legend: O output width, D input width, R rank.

Every linear map of the blocks gets one, attention and feed-forward alike: adapters on attention alone learn less
(Schulman et al., "LoRA Without Regret", 2025). Routed experts, router, embedding and head stay as they are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from deepground import kernels
from deepground.errors import TrainingError
from deepground.model import Decoder
from deepground.model.layers import Linear


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """How large adapters are."""

    rank: int = 16
    alpha: float = 32.0
    """The adapter's product is multiplied by alpha / rank."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise TrainingError(f"lora rank is {self.rank}; it must be at least 1")


class LoraLinear(nn.Module):
    """A frozen linear map and its adapter.

    Args:
        base: stays as it is.
        config: rank and scale.
        generator: draws the first A; B begins at zero, so that nothing changes at first.
    """

    def __init__(self, base: Linear, config: LoraConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base
        self.scale = config.alpha / config.rank
        bound = 1 / math.sqrt(base.in_features)
        first = torch.empty(config.rank, base.in_features).uniform_(-bound, bound, generator=generator)
        self.lora_a = nn.Parameter(first.to(base.weight.device))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, config.rank, device=base.weight.device))

    @property
    def weight(self) -> Tensor:
        """Base and adapter as one matrix (O, D); absorbed attention multiplies with it."""
        delta_OD = self.scale * (self.lora_b @ self.lora_a)
        return self.base.weight + delta_OD.to(self.base.weight.dtype)

    def forward(self, x_TD: Tensor) -> Tensor:
        """(..., D) to (..., O)."""
        low_TR = kernels.linear(x_TD, self.lora_a.to(x_TD.dtype))
        update_TO = kernels.linear(low_TR, self.lora_b.to(x_TD.dtype))
        out_TO: Tensor = self.base(x_TD) + self.scale * update_TO
        return out_TO


def add_lora(decoder: Decoder, config: LoraConfig, seed: int) -> None:
    """Freeze a decoder and give the linear maps of its blocks adapters, the same for the same seed.

    Raises:
        TrainingError: a map is narrower than the rank.
    """
    generator = torch.Generator().manual_seed(seed)
    decoder.requires_grad_(False)
    for parent, name, linear in list(_block_linears(decoder)):
        if min(linear.weight.shape) < config.rank:
            raise TrainingError(
                f"lora rank {config.rank} is larger than {name} ({' x '.join(map(str, linear.weight.shape))}); lower it"
            )
        setattr(parent, name, LoraLinear(linear, config, generator))


@torch.no_grad()
def merge_lora(decoder: Decoder) -> None:
    """Put the adapters into the weights and remove them; in float32, rounded once to the weights' own format."""
    for module in list(decoder.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, LoraLinear):
                delta_OD = child.scale * (child.lora_b.float() @ child.lora_a.float())
                child.base.weight.copy_(child.base.weight.float() + delta_OD)
                setattr(module, name, child.base)


def save_adapter(decoder: Decoder, config: LoraConfig, folder: Path, *, base: str) -> None:
    """Write the adapters as PEFT reads them: adapter_config.json and adapter_model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    targets = set()
    for name, module in decoder.named_modules():
        if isinstance(module, LoraLinear):
            targets.add(name.rpartition(".")[2])
            tensors[f"base_model.model.{name}.lora_A.weight"] = module.lora_a.detach().float().contiguous()
            tensors[f"base_model.model.{name}.lora_B.weight"] = module.lora_b.detach().float().contiguous()
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(targets),
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def _block_linears(decoder: Decoder) -> Iterator[tuple[nn.Module, str, Linear]]:
    """The maps inside the blocks with the modules that hold them, in the order of the model."""
    for layer in decoder.model.layers:
        for module in layer.modules():
            for name, child in module.named_children():
                if isinstance(child, Linear):
                    yield module, name, child
