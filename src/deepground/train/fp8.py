"""FP8 training with power-of-two scales, emulated: every product's inputs are rounded as DeepSeek-V3 rounds them.

Legend: T tokens, D input width, O output width.

Source: DeepSeek-V3 report (arXiv 2412.19437), section 3.3, with the scales of V3.1 (UE8M0). All three products of a map
take E4M3 inputs: activations and gradients in groups of 128 along the sum, weights in blocks of 128 x 128; sums, master
weights and everything else keep their format. Embedding, head, router, norms and attention's own products are not
touched, as in the report. The rounding is exact; the speed is that of the products in the format around it, since
processors without FP8 units have nothing to gain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from deepground.model import Decoder

_GROUP = 128
_LARGEST = 448.0
_SMALLEST = 1e-4
"""Of a group's largest magnitude, as in DeepSeek's kernels."""


def round_groups(x: Tensor) -> Tensor:
    """Each run of 128 along the last dimension to E4M3 with one power-of-two scale, and back."""
    width = x.shape[-1]
    padded = F.pad(x.float(), (0, -width % _GROUP))
    padded = padded.reshape(*padded.shape[:-1], -1, _GROUP)
    scale = _scale(padded.abs().amax(dim=-1, keepdim=True))
    return (_to_e4m3(padded / scale) * scale).flatten(-2)[..., :width].to(x.dtype)


def round_blocks(weight_OD: Tensor) -> Tensor:
    """Blocks of 128 x 128 to E4M3 with one power-of-two scale each, and back."""
    rows, columns = weight_OD.shape
    padded = F.pad(weight_OD.float(), (0, -columns % _GROUP, 0, -rows % _GROUP))
    blocks = padded.reshape(padded.shape[0] // _GROUP, _GROUP, -1, _GROUP)
    scale = _scale(blocks.abs().amax(dim=(1, 3), keepdim=True))
    rounded = (_to_e4m3(blocks / scale) * scale).flatten(2, 3).flatten(0, 1)
    return rounded[:rows, :columns].to(weight_OD.dtype)


class Fp8Products(TorchFunctionMode):
    """While active, the linear maps of a decoder's blocks multiply rounded numbers, forwards and backwards.

    Args:
        decoder: its embedding, head and routers are left alone.
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self._spared = {id(p) for n, p in decoder.named_parameters() if n.endswith(_SPARED)}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is F.linear and id(args[1]) not in self._spared:
            out = _Fp8Linear.apply(args[0], args[1])  # type: ignore[no-untyped-call]
            bias = args[2] if len(args) > 2 else (kwargs or {}).get("bias")
            return out if bias is None else out + bias
        return func(*args, **(kwargs or {}))


_SPARED = ("embed_tokens.weight", "lm_head.weight", "mlp.gate.weight")


class _Fp8Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight_OD: Tensor) -> Tensor:
        dtype = _product_dtype(x_TD)
        ctx.save_for_backward(x_TD, weight_OD)
        return F.linear(round_groups(x_TD.to(dtype)), round_blocks(weight_OD.to(dtype)))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x_TD, weight_OD = ctx.saved_tensors
        (grad_TO,) = gradients
        dtype = grad_TO.dtype
        grad_x = grad_w = None
        if ctx.needs_input_grad[0]:
            rounded_OD = round_blocks(weight_OD.to(dtype))
            grad_x = (round_groups(grad_TO) @ rounded_OD).to(x_TD.dtype)
        if ctx.needs_input_grad[1]:
            # The sum runs over tokens here, and so do the groups.
            grad_OT, x_DT = grad_TO.flatten(0, -2).mT, x_TD.to(dtype).flatten(0, -2).mT
            grad_w = (round_groups(grad_OT) @ round_groups(x_DT).mT).to(weight_OD.dtype)
        return grad_x, grad_w


def _product_dtype(x: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype


def _scale(amax: Tensor) -> Tensor:
    """The power of two next above amax / 448."""
    return torch.exp2(torch.ceil(torch.log2(amax.clamp_min(_SMALLEST) / _LARGEST)))


def _to_e4m3(x: Tensor) -> Tensor:
    return x.clamp(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn).float()
