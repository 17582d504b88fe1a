"""Taking stored weights apart without expanding them: one expert of a stack, a run of rows.

Legend: NK rows and columns of a weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch

from deepground.model.encoding import Coding, scale_block
from deepground.model.quantization import FP8_BLOCK
from deepground.model.raw_weights import RawWeight, expand
from deepground.model.weights import TensorSpec

_SLAB_VALUES = 2**21


def expert_of(raw: RawWeight, spec: TensorSpec) -> RawWeight:
    """One matrix of stacked experts, or the weight as it is."""
    if len(raw.shape) != 3 or spec.expert is None:
        return raw
    codes = raw.codes[spec.expert]
    scales = None if raw.scales is None else raw.scales[spec.expert]
    matrix = replace(raw, codes=codes, scales=scales, shape=raw.shape[1:])
    if spec.rows is None:
        return matrix
    if raw.scales is None:
        return replace(matrix, codes=codes[spec.rows[0] : spec.rows[1]], shape=spec.shape)
    # The halves of gate_up_proj may meet within a block.
    values_NK = expand(matrix, torch.float32)[spec.rows[0] : spec.rows[1]]
    return RawWeight(format="f32", codes=values_NK, scales=None, block=None, shape=spec.shape)


def slabs(raw: RawWeight, coding: Coding) -> Iterator[tuple[int, RawWeight]]:
    """A weight in runs of rows that are whole blocks before and after, with their first row; vectors in one."""
    if len(raw.shape) != 2 or (coding == "fp8-ue8m0" and scale_block(raw.shape) != FP8_BLOCK):
        yield 0, raw
        return
    source_rows = raw.block[0] if raw.block is not None else 1
    unit = math.lcm(FP8_BLOCK[0], source_rows)
    step = max(1, _SLAB_VALUES // (unit * max(1, raw.shape[1]))) * unit
    for first in range(0, raw.shape[0], step):
        last = min(first + step, raw.shape[0])
        scales = None if raw.scales is None else raw.scales[first // source_rows : -(-last // source_rows)]
        yield first, replace(raw, codes=raw.codes[first:last], scales=scales, shape=(last - first, raw.shape[1]))
