"""The parameters that a run changes: what its checkpoints hold, and nothing else.

A run on a large model with small adapters would otherwise write the whole model again and again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from deepground.errors import CheckpointError
from deepground.model import Decoder

_BIAS = "e_score_correction_bias"


class TrainedPart(nn.Module):
    """A view of a decoder that has the state of its trained parameters only.

    Args:
        decoder: those that require a gradient are trained; those of the MTP layers are frozen first, since the main
            loss does not reach them.
        with_biases: the routers' selection biases change too.
    """

    def __init__(self, decoder: Decoder, *, with_biases: bool) -> None:
        super().__init__()
        decoder.model.mtp_layers.requires_grad_(False)
        self._held = [decoder]  # In a list, so that it is no submodule.
        self._with_biases = with_biases

    def tensors(self) -> dict[str, Tensor]:
        """By name: the very tensors, not copies."""
        decoder = self._held[0]
        found: dict[str, Tensor] = {n: p for n, p in decoder.named_parameters() if p.requires_grad}
        if self._with_biases:
            found |= {n: b for n, b in decoder.named_buffers() if n.endswith(_BIAS)}
        return found

    def num_parameters(self) -> int:
        """Of the trained ones."""
        return sum(p.numel() for p in self._held[0].parameters() if p.requires_grad)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """By name, detached."""
        return {name: tensor.detach() for name, tensor in self.tensors().items()}

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> None:
        """Put values back.

        Raises:
            CheckpointError: names or shapes do not fit.
        """
        own = self.tensors()
        if own.keys() != state_dict.keys():
            odd = sorted(own.keys() ^ state_dict.keys())[0]
            raise CheckpointError(
                f"the checkpoint was written for another choice of trained parameters ({odd} is in one only); "
                "keep the model and the settings of the run"
            )
        for name, tensor in own.items():
            if tensor.shape != state_dict[name].shape:
                raise CheckpointError(f"the checkpoint's {name} has another shape; keep the model of the run")
            tensor.copy_(state_dict[name])
