"""Sets of tokens as packed bits, and how they bar tokens from logits.

Legend: V vocabulary, W words of 32 tokens each, N rows of logits, M rows that have a mask.

Bit b of word w stands for token 32 w + b, as grammar engines write it. Tokens beyond the last word are not in the set:
a tokenizer may know fewer tokens than the model has logits for.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Bitmask = NDArray[np.int32]
"""A set of tokens, int32 (W,)."""

WORD_BITS = 32

if sys.byteorder != "little":
    raise ImportError("packed token masks are laid out for little-endian processors; this one is not supported")


def num_words(vocab_size: int) -> int:
    """Words that hold one bit for each token."""
    return -(-vocab_size // WORD_BITS)


def pack(token_ids: Iterable[int], vocab_size: int) -> Bitmask:
    """The set of these tokens."""
    bits = np.zeros(num_words(vocab_size) * WORD_BITS, dtype=np.uint8)
    bits[list(token_ids)] = 1
    return np.packbits(bits, bitorder="little").view(np.int32)


def unpack(mask_W: Bitmask) -> list[int]:
    """The tokens of a set, ascending."""
    found: list[int] = np.flatnonzero(np.unpackbits(mask_W.view(np.uint8), bitorder="little")).tolist()
    return found


def contains(mask_W: Bitmask, token_id: int) -> bool:
    """Whether a token is in the set."""
    word = token_id // WORD_BITS
    return word < len(mask_W) and bool(int(mask_W[word]) >> (token_id % WORD_BITS) & 1)


def apply_masks(logits_NV: Tensor, rows: Sequence[int], masks: Sequence[Bitmask]) -> None:
    """Set the logits of tokens outside a row's mask to minus infinity, in place, all rows at once.

    Args:
        logits_NV: rows without a mask are left alone.
        rows: rows that have one, ascending.
        masks: theirs.
    """
    if not rows:
        return
    vocab_size = logits_NV.shape[1]
    packed_MW = np.zeros((len(rows), num_words(vocab_size)), dtype=np.int32)
    for place, mask_W in enumerate(masks):
        words = min(len(mask_W), packed_MW.shape[1])
        packed_MW[place, :words] = mask_W[:words]
    barred_MV = _barred(packed_MW, vocab_size, logits_NV.device)
    if len(rows) == logits_NV.shape[0]:
        logits_NV.masked_fill_(barred_MV, float("-inf"))
    elif rows[-1] - rows[0] + 1 == len(rows):
        logits_NV[rows[0] : rows[-1] + 1].masked_fill_(barred_MV, float("-inf"))
    else:
        index_M = torch.tensor(rows, device=logits_NV.device)
        logits_NV[index_M] = logits_NV[index_M].masked_fill(barred_MV, float("-inf"))


def _barred(packed_MW: NDArray[np.int32], vocab_size: int, device: torch.device) -> Tensor:
    """The complement of the sets, bool (M, V). Unpacked where the logits are: over a bus only packed bits travel."""
    if device.type == "cpu":
        bits_MV = np.unpackbits(packed_MW.view(np.uint8), axis=1, count=vocab_size, bitorder="little")
        return torch.from_numpy(bits_MV) == 0
    return unpack_on_device(torch.from_numpy(packed_MW).to(device), vocab_size) == 0


def unpack_on_device(packed_MW: Tensor, vocab_size: int) -> Tensor:
    """Bits of packed sets as int32 (M, V), with torch's own operations."""
    shifts = torch.arange(WORD_BITS, dtype=torch.int32, device=packed_MW.device)
    bits = (packed_MW.unsqueeze(-1) >> shifts) & 1
    return bits.flatten(1)[:, :vocab_size]
