"""Tokens drawn from logits by the native kernels (csrc/sampling.h).

Legend: N rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from deepground.kernels.native import native_module


class DrawOrder(NamedTuple):
    """One draw; the filters come in the order of the fields, each on what the former left over."""

    row: int
    """Of the logits."""
    temperature: float
    """Above 0."""
    top_k: int
    """0: all."""
    top_p: float
    """1: all."""
    min_p: float
    number: float
    """In [0, 1): the token is the one at which the cumulative weight passes this share of the total."""


def draw_tokens(logits_NV: Tensor, orders: Sequence[DrawOrder]) -> list[int]:
    """The token of each order.

    Tokens are put in the order of their likelihood where there is a top-k or a top-p, else in that of their ids.

    Args:
        logits_NV: float32 on the CPU; every row that is drawn from has a finite maximum and no NaN.
        orders: any number for a row.

    Raises:
        EngineError: the kernels were not built.
        RuntimeError: they were not started.
    """
    assert logits_NV.dtype == torch.float32
    logits_NV = logits_NV.contiguous()
    ids: list[int] = native_module().draw_tokens(logits_NV.data_ptr(), logits_NV.shape[1], list(orders))
    return ids
