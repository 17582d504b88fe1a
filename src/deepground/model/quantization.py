"""config.json's quantization_config: which number formats a folder's weights have, read and written.

Two layouts are known. DeepSeek's own (`quant_method` "fp8") is FP8 E4M3 with a scale for every block of
`weight_block_size`. compressed-tensors' (https://github.com/vllm-project/compressed-tensors) has one scheme
per group of modules; MXFP4 and block-scaled FP8 are the two that are implemented. Which tensor has which
format is read off its stored parts; this page says only what the parts mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from deepground.errors import UnsupportedModelError
from deepground.kernels import MXFP4_GROUP
from deepground.model.config_fields import Fields
from deepground.model.family_fields import MAX_WIDTH

FP8_BLOCK = (128, 128)
"""Rows and columns of a weight block in what is written, as in DeepSeek-V3."""

_KNOWN_METHODS = ("fp8", "compressed-tensors")
_IMPLEMENTED = "MXFP4 in groups of 32, and FP8 in blocks"


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """The compressed number formats of a folder."""

    block: tuple[int, int] | None
    """Rows and columns that share one scale in FP8 weights; None: the folder declares no FP8 weights."""
    mxfp4: bool = False
    """Whether the folder declares MXFP4 weights."""


def check_quantization(fields: Fields) -> Quantization | None:
    """The compressed formats of the weights, or None where they are not quantised.

    Raises:
        UnsupportedModelError: another method, number format or scaling; names it.
    """
    settings = fields.nested("quantization_config")
    if settings is None:
        return None
    method = settings.text("quant_method")
    if method == "fp8":
        return _deepseek(settings)
    if method == "compressed-tensors":
        return _compressed_tensors(settings)
    raise UnsupportedModelError(
        f"{settings.where}quant_method is {method!r}, which is not implemented; known: {', '.join(_KNOWN_METHODS)} "
        f"({_IMPLEMENTED}). Use the model's unquantised or FP8 release"
    )


def deepseek_config(not_converted: Sequence[str]) -> dict[str, Any]:
    """The quantization_config of a folder whose matrices are FP8 with power-of-two block scales.

    Args:
        not_converted: modules that keep a plain format.
    """
    return {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "weight_block_size": list(FP8_BLOCK),
        "activation_scheme": "dynamic",
        "scale_fmt": "ue8m0",
        "modules_to_not_convert": list(not_converted),
    }


def compressed_tensors_config(
    groups: Sequence[tuple[Sequence[str], Literal["mxfp4", "fp8-ue8m0"]]], *, ignore: Sequence[str] = ()
) -> dict[str, Any]:
    """The quantization_config of a folder in compressed-tensors' layout.

    Args:
        groups: targets (module names or "re:..." patterns) and their number format.
        ignore: modules that keep a plain format, though a target matches them.
    """
    layouts = {_LAYOUTS[coding] for _, coding in groups}
    return {
        "quant_method": "compressed-tensors",
        "format": layouts.pop() if len(layouts) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": {
            f"group_{number}": {
                "targets": list(targets),
                "weights": _MXFP4_WEIGHTS if coding == "mxfp4" else _FP8_WEIGHTS,
                "input_activations": None,
                "output_activations": None,
                "format": _LAYOUTS[coding],
            }
            for number, (targets, coding) in enumerate(groups)
        },
        "ignore": list(ignore),
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


_LAYOUTS = {"mxfp4": "mxfp4-pack-quantized", "fp8-ue8m0": "float-quantized"}
_MXFP4_WEIGHTS: dict[str, Any] = {
    "num_bits": 4,
    "type": "float",
    "strategy": "group",
    "group_size": MXFP4_GROUP,
    "symmetric": True,
    "dynamic": False,
    "scale_dtype": "torch.uint8",
    "zp_dtype": "torch.uint8",
}
_FP8_WEIGHTS: dict[str, Any] = {
    "num_bits": 8,
    "type": "float",
    "strategy": "block",
    "block_structure": list(FP8_BLOCK),
    "symmetric": True,
    "dynamic": False,
}


def _deepseek(settings: Fields) -> Quantization:
    wanted = {"fmt": "e4m3", "activation_scheme": "dynamic"}
    for name, value in wanted.items():
        if settings.text(name, default=value) != value:
            raise UnsupportedModelError(f"{settings.where}{name} is {settings.values[name]!r}; implemented: {value!r}")
    return Quantization(block=_block(settings, "weight_block_size"))


def _compressed_tensors(settings: Fields) -> Quantization:
    if settings.has("kv_cache_scheme"):
        raise UnsupportedModelError(f"{settings.where}kv_cache_scheme is set; a quantised KV cache is not implemented")
    groups = settings.nested("config_groups")
    names = sorted(groups.values) if groups is not None else []
    if groups is None or not names:
        raise UnsupportedModelError(f"{settings.where}config_groups is missing or empty; implemented: {_IMPLEMENTED}")
    block: tuple[int, int] | None = None
    mxfp4 = False
    for name in names:
        group = groups.nested(name)
        weights = group.nested("weights") if group is not None else None
        if group is None or weights is None:
            raise UnsupportedModelError(f"{groups.where}{name}.weights is missing; implemented: {_IMPLEMENTED}")
        _check_activations(group)
        kind = (weights.text("type"), weights.integer("num_bits", 1, 64), weights.text("strategy"))
        if not weights.boolean("symmetric", default=True):
            raise UnsupportedModelError(f"{weights.where}symmetric is false; implemented: symmetric weights")
        if kind == ("float", 4, "group") and weights.integer("group_size", 1, MAX_WIDTH) == MXFP4_GROUP:
            mxfp4 = True
        elif kind == ("float", 8, "block"):
            found = _block(weights, "block_structure")
            if block not in (None, found):
                raise UnsupportedModelError(f"{weights.where}block_structure differs from group to group")
            block = found
        else:
            raise UnsupportedModelError(
                f"{weights.where}type, num_bits, strategy are {kind}; implemented: {_IMPLEMENTED}"
            )
    return Quantization(block=block, mxfp4=mxfp4)


def _check_activations(group: Fields) -> None:
    """Activations quantised on the fly are left unquantised here, which only adds precision; static scales are not."""
    inputs = group.nested("input_activations")
    if inputs is not None and not inputs.values.get("dynamic"):
        raise UnsupportedModelError(
            f"{inputs.where}dynamic is false; statically scaled activations are not implemented"
        )
    if group.has("output_activations"):
        raise UnsupportedModelError(f"{group.where}output_activations is set; not implemented")


def _block(settings: Fields, name: str) -> tuple[int, int]:
    block = settings.integers(name, 1, MAX_WIDTH)
    if len(block) != 2:
        raise UnsupportedModelError(
            f"{settings.where}{name} is {settings.values.get(name)!r}; implemented: two block sizes such as [128, 128]"
        )
    return (block[0], block[1])
