"""Rotary position embedding (arXiv 2104.09864) and its context extensions.

Legend: T tokens, R rotary pairs (half of rotary_dim).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deepground.model.config import Llama3Scaling, RopeConfig, RopeScaling, YarnScaling


class RotaryEmbedding:
    """Angles for every position. Not a module: it is derived from the config and has no weights to load or cast."""

    def __init__(self, config: RopeConfig) -> None:
        self._frequencies_R = rope_frequencies(config)
        self._factor = cos_sin_factor(config.scaling)

    def tables(self, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines, each (T, R) in float32, on the device of the positions."""
        self._frequencies_R = self._frequencies_R.to(positions_T.device)
        angles_TR = positions_T.unsqueeze(-1).float() * self._frequencies_R
        return angles_TR.cos() * self._factor, angles_TR.sin() * self._factor


def rope_frequencies(config: RopeConfig) -> Tensor:
    """Radians per position of every pair: (R,) float32, on the CPU whatever the default device."""
    exponents_R = torch.arange(0, config.rotary_dim, 2, dtype=torch.float32, device="cpu") / config.rotary_dim
    frequencies_R = 1.0 / config.theta**exponents_R
    scaling = config.scaling
    if scaling is None:
        return frequencies_R
    if isinstance(scaling, YarnScaling):
        return _yarn(frequencies_R, scaling, config)
    if isinstance(scaling, Llama3Scaling):
        return _llama3(frequencies_R, scaling)
    return frequencies_R / scaling.factor


def cos_sin_factor(scaling: RopeScaling | None) -> float:
    """What cos and sin are multiplied by; 1 for all released DeepSeek models."""
    if not isinstance(scaling, YarnScaling):
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        return _yarn_mscale(scaling.factor, scaling.mscale) / _yarn_mscale(scaling.factor, scaling.mscale_all_dim)
    return _yarn_mscale(scaling.factor, 1.0)


def mla_softmax_factor(scaling: RopeScaling | None) -> float:
    """What MLA's softmax scale is multiplied by: the square of YaRN's mscale over all dimensions."""
    if not isinstance(scaling, YarnScaling) or not scaling.mscale_all_dim:
        return 1.0
    return _yarn_mscale(scaling.factor, scaling.mscale_all_dim) ** 2


def _yarn_mscale(factor: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def _yarn(frequencies_R: Tensor, scaling: YarnScaling, config: RopeConfig) -> Tensor:
    """Fast pairs keep their frequency, slow ones are stretched, those between are blended."""

    def pair_index(rotations: float) -> float:
        """The (fractional) pair that turns this many times within the original context."""
        wavelengths = scaling.original_max_positions / (rotations * 2 * math.pi)
        return config.rotary_dim * math.log(wavelengths) / (2 * math.log(config.theta))

    low, high = pair_index(scaling.beta_fast), pair_index(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.rotary_dim - 1)
    if low == high:
        high += 0.001
    pairs_R = torch.arange(frequencies_R.shape[0], dtype=torch.float32, device="cpu")
    stretched_R = ((pairs_R - low) / (high - low)).clamp(0, 1)
    return frequencies_R / scaling.factor * stretched_R + frequencies_R * (1 - stretched_R)


def _llama3(frequencies_R: Tensor, scaling: Llama3Scaling) -> Tensor:
    """Long wavelengths are stretched, short ones kept, those between are blended."""
    wavelengths_R = 2 * math.pi / frequencies_R
    turns_R = scaling.original_max_positions / wavelengths_R
    kept_R = (turns_R - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept_R = kept_R.clamp(0, 1)
    return frequencies_R / scaling.factor * (1 - kept_R) + frequencies_R * kept_R
