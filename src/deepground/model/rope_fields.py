"""Rotary embedding settings in config.json, read from both spellings and written in the older one.

Checkpoints before transformers 5 have `rope_theta` and `rope_scaling`; transformers 5 writes both into
`rope_parameters`. We write the older spelling, because every version of transformers reads it.
"""

from __future__ import annotations

import math
from typing import Any

from deepground.errors import UnsupportedModelError
from deepground.model.config import LinearScaling, Llama3Scaling, RopeConfig, RopeScaling, YarnScaling
from deepground.model.config_fields import Fields

ROPE_KEYS = ("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor")
_KNOWN_TYPES = "default, linear, llama3, yarn"
_MAX_POSITIONS = 2**27


def read_rope(
    fields: Fields, *, head_dim: int, max_positions: int, interleaved: bool, partial: bool, partial_default: float = 1.0
) -> RopeConfig:
    """The rotary settings of a model.

    Args:
        fields: config.json.
        head_dim: dimensions of a head that could rotate.
        max_positions: the model's context, which stands in for an absent original context.
        interleaved: pairing of the rotated dimensions.
        partial: whether the family can rotate a part of the head only.
        partial_default: the part that rotates where the config does not say.

    Returns:
        The settings.

    Raises:
        ConfigError: a value is out of range.
        UnsupportedModelError: a rope type that is not implemented.
    """
    # transformers lets rope_scaling win where a file has both.
    scaling_fields = fields.nested("rope_scaling") if fields.values.get("rope_scaling") else None
    inner = scaling_fields or fields.nested("rope_parameters") or Fields({}, f"{fields.where}rope_parameters.")
    theta_fields = inner if inner.has("rope_theta") else fields
    theta = theta_fields.number("rope_theta", 1.0 + 1e-6, 1e15, default=10000.0)
    factor_fields = inner if inner.has("partial_rotary_factor") else fields
    factor = factor_fields.number("partial_rotary_factor", 1e-6, 1.0, default=partial_default)
    if factor != 1.0 and not partial:
        raise UnsupportedModelError(
            f"{factor_fields.where}partial_rotary_factor is {factor}; this family rotates whole heads only"
        )
    rotary_dim = int(head_dim * factor)
    if rotary_dim < 2 or rotary_dim % 2:
        raise UnsupportedModelError(
            f"{factor_fields.where}partial_rotary_factor of {factor} and a head of {head_dim} give {rotary_dim} "
            "rotating dimensions; rotation needs a positive even number of them"
        )
    return RopeConfig(
        theta=theta, rotary_dim=rotary_dim, interleaved=interleaved, scaling=_read_scaling(inner, max_positions)
    )


def write_rope(rope: RopeConfig, *, head_dim: int, partial: bool) -> dict[str, Any]:
    """The fields of config.json that say the same; the inverse of `read_rope`."""
    written: dict[str, Any] = {"rope_theta": rope.theta, "rope_scaling": _write_scaling(rope.scaling)}
    if partial:
        # The quotient of two small integers times the divisor can fall a hair short of the integer.
        factor = rope.rotary_dim / head_dim
        written["partial_rotary_factor"] = factor if int(head_dim * factor) == rope.rotary_dim else factor + 1e-9
    return written


def _read_scaling(fields: Fields, max_positions: int) -> RopeScaling | None:
    nested = [name for name, value in fields.values.items() if isinstance(value, dict)]
    if nested:
        raise UnsupportedModelError(f"{fields.where}{nested[0]}: rotary settings per layer type are not implemented")
    kind = fields.text("rope_type", default=fields.text("type", default="default"))
    for name in ("short_factor", "long_factor", "mrope_section"):
        if fields.has(name):
            raise UnsupportedModelError(f"{fields.where}{name} is not implemented; known rope types: {_KNOWN_TYPES}")
    if kind == "default":
        return None
    if kind not in ("linear", "llama3", "yarn"):
        raise UnsupportedModelError(
            f"{fields.where}rope_type is {kind!r}, which is not implemented; known: {_KNOWN_TYPES}"
        )
    if kind == "linear":
        return LinearScaling(factor=fields.number("factor", 1e-3, 1e6))
    original = fields.integer("original_max_position_embeddings", 1, _MAX_POSITIONS, default=max_positions)
    if kind == "llama3":
        return _read_llama3(fields, original)
    return _read_yarn(fields, original, max_positions)


def _read_llama3(fields: Fields, original: int) -> Llama3Scaling:
    low = fields.number("low_freq_factor", 1e-6, 1e6)
    high = fields.number("high_freq_factor", 1e-6, 1e6)
    if high <= low:
        raise fields.fail("high_freq_factor", f"more than low_freq_factor, which is {low:g}")
    return Llama3Scaling(
        factor=fields.number("factor", 1e-3, 1e6),
        low_freq_factor=low,
        high_freq_factor=high,
        original_max_positions=original,
    )


def _read_yarn(fields: Fields, original: int, max_positions: int) -> YarnScaling:
    factor = fields.number("factor", 1e-3, 1e6, default=max_positions / original)
    mscale = fields.optional_number("mscale", 0.0, 100.0)
    mscale_all_dim = fields.optional_number("mscale_all_dim", 0.0, 100.0)
    attention_factor = fields.optional_number("attention_factor", 0.0, 1e4)
    if attention_factor is None and mscale_all_dim and not mscale:
        # Without mscale, transformers takes the plain factor, mscale_all_dim or not.
        attention_factor = 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
    return YarnScaling(
        factor=factor,
        original_max_positions=original,
        # Zero counts as absent, in transformers too.
        beta_fast=fields.number("beta_fast", 0.0, 1e6, default=32.0) or 32.0,
        beta_slow=fields.number("beta_slow", 0.0, 1e6, default=1.0) or 1.0,
        mscale=1.0 if mscale is None else mscale,
        mscale_all_dim=mscale_all_dim or 0.0,
        attention_factor=attention_factor,
        truncate=fields.boolean("truncate", default=True),
    )


def _write_scaling(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    if isinstance(scaling, LinearScaling):
        return {"rope_type": "linear", "factor": scaling.factor}
    if isinstance(scaling, Llama3Scaling):
        return {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_positions,
        }
    written: dict[str, Any] = {
        "rope_type": "yarn",
        "factor": scaling.factor,
        "original_max_position_embeddings": scaling.original_max_positions,
        "beta_fast": scaling.beta_fast,
        "beta_slow": scaling.beta_slow,
        "mscale": scaling.mscale,
        "mscale_all_dim": scaling.mscale_all_dim,
    }
    if scaling.attention_factor is not None:
        written["attention_factor"] = scaling.attention_factor
    if not scaling.truncate:
        written["truncate"] = False
    return written
